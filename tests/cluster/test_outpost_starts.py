"""What an outpost gives to the children that it starts, without processes."""

from __future__ import annotations

import asyncio
import errno
import pickle
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from dynamo_cli.config import Device, WorkerConfig
from dynamo_cli.messages.cluster import (
    ChildGone,
    LivingChildren,
    ResetLinks,
    StartChild,
)
from dynamo_cli.outpost import process
from dynamo_cli.outpost.process import Outpost
from dynamo_cli.supervisor.child import Start
from dynamo_cli.topology import ProcessId, Role
from tests.cluster.outposts import (
    CACHE,
    ENGINE,
    HOUR_NS,
    WORKER,
    FakeChild,
    Node,
)

GPUS = tuple(Device(str(number), f"GPU-{number}") for number in (4, 6))


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Start]:
    """What the outpost starts; no process is."""
    found: list[Start] = []

    def start(start: Start, _: Outpost) -> Any:
        found.append(start)
        return SimpleNamespace(spawn=lambda: None, pid=1)

    monkeypatch.setattr(process, "LocalChild", start)
    return found


@pytest.mark.parametrize(("boot", "shifted"), [("another machine", True), (None, False)])
def test_a_child_gets_the_path_the_gpus_and_the_clock_of_its_node(
    started: list[Start], boot: str | None, shifted: bool
) -> None:
    """The head numbers the GPUs of a node. Clocks differ unless the node is the head's machine."""

    async def scenario() -> None:
        node = Node()
        engine = replace(ENGINE, path="/here", devices=GPUS)
        node.outpost._post = replace(node.outpost._post, engine=engine)
        node.hear(
            ResetLinks(boot or process.BOOT.read_text().strip(), time.monotonic_ns() + HOUR_NS)
        )
        config = WorkerConfig(replace(ENGINE, devices=(Device("1", "node-b/1"),)), False)
        given = pickle.dumps(Start(WORKER, config, "INFO"))
        node.hear(StartChild(WORKER.name, given, False))

    asyncio.run(scenario())
    (found,) = started
    assert isinstance(found.config, WorkerConfig)
    assert (found.config.engine.path, found.config.engine.devices) == ("/here", GPUS[1:])
    assert (abs(found.clock_shift_ns - HOUR_NS) < HOUR_NS / 60) is shifted
    assert shifted or not found.clock_shift_ns


@pytest.mark.parametrize("role", [Role.WORKER, Role.HOST_CACHE])
def test_engines_and_the_host_cache_get_the_memory_of_their_node(
    started: list[Start], role: Role
) -> None:
    async def scenario() -> None:
        node = Node()
        cache = replace(CACHE, path="/proc/here")
        node.outpost._post = replace(node.outpost._post, host_cache=cache)
        config: Any = CACHE
        if role is Role.WORKER:
            config = WorkerConfig(replace(ENGINE, host_cache=CACHE))
        one = ProcessId(role, 1)
        node.hear(StartChild(one.name, pickle.dumps(Start(one, config, "INFO")), False))

    asyncio.run(scenario())
    found: Any = started[0].config
    assert (found if role is Role.HOST_CACHE else found.engine.host_cache).path == "/proc/here"


def test_a_node_with_fewer_gpus_than_ray_counts_says_so() -> None:
    async def scenario() -> None:
        node = Node()
        engine = replace(node.outpost._post.engine, devices=GPUS)
        node.outpost._post = replace(node.outpost._post, engine=engine)
        config = WorkerConfig(replace(ENGINE, devices=(Device("2", "node-b/2"),)))
        one = ProcessId(Role.WORKER, 1)
        node.hear(StartChild(one.name, pickle.dumps(Start(one, config, "INFO")), False))
        (gone,) = node.told(ChildGone)
        assert (gone.process, gone.exit_code, gone.failure[0]) == (one.name, None, "ResourceError")
        assert "more GPUs on node-b than the 2" in gone.failure[1]

    asyncio.run(scenario())


def test_a_child_that_cannot_be_started_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refused(FakeChild):
        def __init__(self, start: Start, outpost: Outpost) -> None:
            super().__init__(start.process, outpost)

        def spawn(self) -> None:
            raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(process, "LocalChild", Refused)

    async def scenario() -> None:
        node = Node()
        one = ProcessId(Role.WORKER, 1)
        node.hear(StartChild(one.name, pickle.dumps(Start(one, CACHE, "INFO")), False))
        (gone,) = node.told(ChildGone)
        assert gone.failure[1].startswith("it cannot be started: ")
        node.hear(ResetLinks("", 0))
        assert [one.process for one in node.told(LivingChildren)[0].children] == [WORKER.name]

    asyncio.run(scenario())
