"""What systemd hears: ready, the state in words, signs of life, the end."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from dynamo_cli.cli.service_view import ServiceView, status_of
from dynamo_cli.host import service_manager
from dynamo_cli.host.service_manager import ServiceManager
from dynamo_cli.messages.lifecycle import Phase
from dynamo_cli.topology import Role
from tests.cli.test_views import state


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """The socket of a service manager, and its address."""
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(address)
        listening.settimeout(10)
        yield listening, address


def test_it_hears_what_the_server_does_from_the_start_to_the_end(
    manager: tuple[socket.socket, str],
) -> None:
    listening, address = manager
    view = ServiceView(ServiceManager(address))
    view.processes([state(Role.ROUTER, Phase.READY), state(Role.WORKER, Phase.LOADING)])
    view.processes([state(Role.ROUTER, Phase.READY), state(Role.WORKER, Phase.LOADING)])
    view.serving("http://localhost:8181/v1", "curl")
    view.processes([state(Role.WORKER, Phase.READY), state(Role.WORKER, Phase.BACKOFF)])
    view.ending()
    view.processes([state(Role.WORKER, Phase.READY), state(Role.WORKER, Phase.STOPPED)])
    listening.settimeout(0)
    told = [listening.recv(4096).decode() for _ in range(6)]
    assert told == [
        "STATUS=starting: worker loading weights",
        "READY=1",
        "STATUS=serving on http://localhost:8181/v1",
        "STATUS=serving on http://localhost:8181/v1: 1 of 2 workers ready",
        "STOPPING=1",
        "STATUS=waiting for running requests",
    ]
    with pytest.raises(BlockingIOError):
        listening.recv(4096)


def test_signs_of_life_come_from_the_loop(manager: tuple[socket.socket, str]) -> None:
    listening, address = manager

    async def scenario() -> None:
        view = ServiceView(ServiceManager(address, watchdog_s=0.03))
        view.processes([])
        view.processes([])
        loop = asyncio.get_running_loop()
        listening.setblocking(False)
        told = [(await asyncio.wait_for(loop.sock_recv(listening, 99), 10)) for _ in range(4)]
        assert told == [b"STATUS=starting", b"WATCHDOG=1", b"WATCHDOG=1", b"WATCHDOG=1"]

    asyncio.run(scenario())


def test_a_manager_that_is_slow_to_read_still_hears_what_matters(
    manager: tuple[socket.socket, str],
) -> None:
    listening, address = manager

    async def scenario() -> list[bytes]:
        while ServiceManager(address).tell("WATCHDOG=1"):
            pass  # now it has no room for more
        view = ServiceView(ServiceManager(address))
        view.processes([state(Role.WORKER, Phase.LOADING)])
        view.serving("url", "curl")
        loop = asyncio.get_running_loop()
        listening.setblocking(False)
        told = []
        while not told or told[-1] == b"WATCHDOG=1":
            told.append(await asyncio.wait_for(loop.sock_recv(listening, 4096), 10))
        return told

    assert asyncio.run(scenario())[-1] == b"READY=1\nSTATUS=serving on url"


def test_a_manager_that_is_gone_harms_nobody(tmp_path: Path) -> None:
    ServiceView(ServiceManager(str(tmp_path / "nobody"))).serving("url", "curl")


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({}, None),
        ({"NOTIFY_SOCKET": "vsock:2:1"}, None),
        ({"NOTIFY_SOCKET": "/run/x"}, ServiceManager("/run/x")),
        ({"NOTIFY_SOCKET": "@x"}, ServiceManager("\0x")),
        (
            {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())},
            ServiceManager("/x", 30.0),
        ),
        (
            {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"},
            ServiceManager("/x"),
        ),
    ],
)
def test_children_do_not_get_its_variables(
    environment: dict[str, str], found: ServiceManager | None
) -> None:
    assert service_manager.found(environment) == found
    assert environment == {}


def test_the_status_says_what_is_not_ready() -> None:
    assert status_of([state(Role.ROUTER, Phase.READY)], "") == "starting"
