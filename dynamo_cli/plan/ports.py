"""Checks that a server can listen on an address, before anything is started."""

from __future__ import annotations

import socket

from dynamo_cli.errors import PortInUse
from dynamo_cli.host import oserrors


def problem(host: str, port: int) -> str:
    """Why nothing can listen on this address now; empty when something can."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen()
    except OSError as error:
        return oserrors.reason(error)
    except UnicodeError:
        return "this is not a valid host name"
    return ""


def check(host: str, port: int, remedy: str) -> None:
    """Raise `PortInUse`, with `remedy`, when nothing can listen on this address."""
    if why := problem(host, port):
        raise PortInUse(f"cannot listen on {host}:{port}: {why}. {remedy}")
