"""Whether an address can be listened on: seen before anything is started for it."""

from __future__ import annotations

import socket

from dynamo_cli.errors import PortInUse


def problem(host: str, port: int) -> str:
    """Why nobody can listen there now; empty when all is well."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen()
    except OSError as error:
        return (error.strerror or str(error)).lower()
    except UnicodeError:
        return "no name of a machine"
    return ""


def check(host: str, port: int, remedy: str) -> None:
    """Raises `PortInUse` when nobody can listen there."""
    if why := problem(host, port):
        raise PortInUse(f"cannot listen on {host}:{port}: {why}. {remedy}")
