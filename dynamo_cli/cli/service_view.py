"""A view of a run for systemd: ready or not, what it does in one line, signs of life, the end."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

from dynamo_cli.host.service_manager import ALIVE, READY, STOPPING, ServiceManager
from dynamo_cli.messages.lifecycle import Phase, ProcessState
from dynamo_cli.topology import Role

STATUS = "STATUS="

AGAIN_S = 0.2
"""After so long, what the service manager had no room for is told again."""

BEATS = 3
"""Signs of life in the time after which the service manager gives this process up."""


class ServiceView:
    """A `View` that tells a service manager what happens.

    The supervisor watches its children itself. Its own signs of life come from its event loop, so
    that they stop when it hangs.
    """

    def __init__(self, manager: ServiceManager) -> None:
        self._manager = manager
        self._url = ""
        self._status = ""
        self._untold: list[str] = []
        self._timer: asyncio.TimerHandle | None = None
        self._beating = self._ends = False

    @property
    def lost_lines(self) -> int:
        """None: it writes no lines."""
        return 0

    def processes(self, table: Sequence[ProcessState]) -> None:
        """Tell what it does now, and begin to give signs of life."""
        if not self._ends:  # then it is told that it ends, not who of it is still there
            self._tell_status(status_of(table, self._url))
        if not self._beating and self._manager.watchdog_s:
            self._beating = True
            self._beat()

    def log(self, name: str, level: str, text: str) -> None:
        """Does nothing: logs are on standard error."""

    def access(self, name: str, fields: str) -> None:
        """Does nothing, likewise."""

    def notice(self, level: str, text: str) -> None:
        """Does nothing, likewise."""

    def serving(self, url: str, curl: str) -> None:
        """Tell that requests can be answered."""
        self._url = url
        self._tell(READY)
        self._tell_status(f"serving on {url}")

    def ending(self) -> None:
        """Tell that it ends."""
        self._ends = True
        self._tell(STOPPING)
        self._tell_status("waiting for running requests")

    def _tell_status(self, status: str) -> None:
        if status != self._status:
            self._status = status
            self._untold = [line for line in self._untold if not line.startswith(STATUS)]
            self._tell(STATUS + status)

    def _tell(self, line: str) -> None:
        self._untold.append(line)
        if self._timer is None:
            self._tell_untold()

    def _tell_untold(self) -> None:
        """Tell it all. A lost ``READY=1`` would leave the service starting for ever."""
        self._timer = None
        if self._manager.tell(*self._untold):
            self._untold.clear()
        else:
            self._timer = asyncio.get_running_loop().call_later(AGAIN_S, self._tell_untold)

    def _beat(self) -> None:
        self._manager.tell(ALIVE)
        asyncio.get_running_loop().call_later(self._manager.watchdog_s / BEATS, self._beat)


def status_of(table: Sequence[ProcessState], url: str) -> str:
    """One line on what a tree does.

    Args:
        url: where it serves; empty while it starts.
    """
    if url:
        ready = Counter(state.phase == Phase.READY for state in table if state.role is Role.WORKER)
        return f"serving on {url}: {ready[True]} of {ready.total()} workers ready"
    waiting = [f"{one.name} {one.phase}" for one in table if one.phase != Phase.READY]
    return f"starting: {', '.join(waiting)}" if waiting else "starting"
