"""Messages to the service manager that has started this process: sd_notify(3) of systemd."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import MutableMapping
from typing import NamedTuple

SOCKET_VARIABLE, WATCHDOG_VARIABLE = "NOTIFY_SOCKET", "WATCHDOG_USEC"
WATCHDOG_PID_VARIABLE = "WATCHDOG_PID"

READY, STOPPING, ALIVE = "READY=1", "STOPPING=1", "WATCHDOG=1"


class ServiceManager(NamedTuple):
    """The service manager that has started this process.

    Attributes:
        address: its datagram socket: a path, or an abstract name that begins with a zero byte.
        watchdog_s: it kills this service when it hears nothing for so long; 0: never.
    """

    address: str
    watchdog_s: float = 0.0

    def tell(self, *lines: str) -> bool:
        """Send it lines such as ``STATUS=...``, without waiting for it.

        Returns:
            False if it has not read what it was told before and has no room for more. One that does
            not listen at all is no failure of ours.
        """
        told = "\n".join(lines).encode(errors="replace")
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as out,
        ):
            try:
                out.sendto(told, self.address)
            except BlockingIOError:
                return False
        return True


def found(environment: MutableMapping[str, str] = os.environ) -> ServiceManager | None:
    """The service manager of this process; None if none has started it.

    Its variables are removed: children must not speak for the service.
    """
    address = environment.pop(SOCKET_VARIABLE, "")
    watchdog, pid = (
        environment.pop(WATCHDOG_VARIABLE, ""),
        environment.pop(WATCHDOG_PID_VARIABLE, ""),
    )
    if not address.startswith(("/", "@")):
        return None
    mine = pid in ("", str(os.getpid())) and watchdog.isdecimal()
    name = "\0" + address[1:] if address.startswith("@") else address
    return ServiceManager(name, int(watchdog) / 1e6 if mine else 0.0)
