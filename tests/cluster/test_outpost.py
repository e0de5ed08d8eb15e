"""What an outpost does when the head speaks or a child ends, without processes."""

from __future__ import annotations

import asyncio
import pickle
import signal
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from dynamo_cli.cluster_config import Patience, RelayConfig
from dynamo_cli.config import Device, EngineConfig, HostCacheConfig, WorkerConfig
from dynamo_cli.ipc.codec import Decoder, encode
from dynamo_cli.messages.base import Message
from dynamo_cli.messages.cluster import (
    Beat,
    Carry,
    ChildGone,
    FromOutpost,
    JoinBeside,
    JoinChild,
    Muster,
    PartChild,
    Present,
    RelayCut,
    RelayDown,
    RelayUp,
    Roll,
    StartChild,
    TellChild,
)
from dynamo_cli.messages.lifecycle import LinkDown, LinkUp, Phase, PhaseChange, Ping, SetPhase
from dynamo_cli.outpost import process
from dynamo_cli.outpost.process import NO_HEAD, RELAY, Outpost
from dynamo_cli.supervisor.child import Child, Start
from dynamo_cli.supervisor.orphans import Orphans
from dynamo_cli.supervisor.post import Post, Versions
from dynamo_cli.supervisor.watching import Watching
from dynamo_cli.topology import ROUTER, ProcessId, Role

WORKER = ProcessId(Role.WORKER, 0)
ENGINE = EngineConfig("tiny", "tiny", ("tiny",))
CACHE = HostCacheConfig(1 << 20)
TIMEOUT_S = 20.0
HOUR_NS = 3600 * 10**9
decoded: Any = Decoder(FromOutpost)


def post(**patience: float) -> Post:
    relay = RelayConfig("127.0.0.1", 1, "", "", "", listens=False)
    versions = Versions("1", "1", "3.11")
    return Post(
        "node-b", "127.0.0.1", relay, ENGINE, False, versions, TIMEOUT_S, Patience(**patience)
    )


class FakeChild(Child):
    """A child that records the messages sent to it."""

    def __init__(self, process: ProcessId, outpost: Outpost) -> None:
        super().__init__(Start(process, ENGINE, "WARNING"), outpost)  # type: ignore[arg-type]
        self.pid = 1
        self.got: list[Any] = []
        self.control: Any = SimpleNamespace(send=lambda message, _=(): self.got.append(message))

    @property
    def last_words(self) -> list[str]:
        return ["words"]

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        self.gone.set()

    def discard(self) -> None:
        pass


class Node:
    """An outpost with a relay and a worker; make it in a running loop."""

    def __init__(self, **patience: float) -> None:
        self.outpost = Outpost(post(**patience))
        self.relay, self.worker = (FakeChild(one, self.outpost) for one in (RELAY, WORKER))
        self.outpost._children.update({RELAY: self.relay, WORKER: self.worker})  # type: ignore[dict-item]

    def hear(self, message: Message) -> None:
        """The head says this."""
        self.outpost.on_report(self.relay, Carry(encode(message)), ())

    def told(self, kind: type) -> list[Any]:
        """What the head was told, of one kind."""
        carried = [decoded(one.payload) for one in self.relay.got if isinstance(one, Carry)]
        return [one for one in carried if isinstance(one, kind)]

    def link(self, generation: int) -> None:
        self.hear(JoinChild(WORKER.name, ROUTER.name, generation))


def test_a_worker_that_the_head_found_ready_is_asked_for_signs_of_life() -> None:
    async def scenario() -> None:
        node = Node()
        node.outpost.on_report(node.worker, PhaseChange(Phase.PROBING), ())
        node.outpost._watching._look()
        assert Ping() not in node.worker.got
        node.hear(TellChild(WORKER.name, encode(SetPhase(Phase.READY))))
        node.outpost._watching._look()
        assert node.worker.got == [SetPhase(Phase.READY), Ping()]
        node.hear(Muster("", 0))  # it is probed once more after its links were made anew
        assert node.told(Roll)[0].children == [Present(WORKER.name, 1, Phase.PROBING)]

    asyncio.run(scenario())


def test_links_are_made_at_the_relay_and_at_the_child_and_end_with_it() -> None:
    async def scenario() -> None:
        node = Node()
        node.link(7)
        assert RelayUp(7) in node.relay.got
        assert LinkUp(ROUTER.name, 7) in node.worker.got
        node.worker.gone.set()
        node.outpost.on_exit(node.worker, -9)
        assert RelayDown(7) in node.relay.got
        assert node.told(ChildGone) == [ChildGone(WORKER.name, -9, None, "", ["words"])]
        node.link(8)  # asked for before the head had heard of the end
        assert node.relay.got[-1] == RelayDown(8)

    asyncio.run(scenario())


def test_a_child_whose_end_is_not_handled_yet_gets_no_link() -> None:
    async def scenario() -> None:
        node = Node()
        node.worker.gone.set()
        node.link(7)
        assert node.relay.got == [RelayDown(7)]
        assert not node.worker.got

    asyncio.run(scenario())


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
        node.hear(Muster(boot or process.BOOT.read_text().strip(), time.monotonic_ns() + HOUR_NS))
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


def test_two_children_are_joined_without_the_relay_and_parted_by_a_muster() -> None:
    async def scenario() -> None:
        node = Node()
        cache = FakeChild(ProcessId(Role.HOST_CACHE, 1), node.outpost)
        node.outpost._children[cache.process] = cache  # type: ignore[assignment]
        node.hear(JoinBeside(WORKER.name, cache.process.name, 5))
        assert node.worker.got == [LinkUp("host cache 1", 5)]
        assert cache.got == [LinkUp("worker 0", 5)]
        assert not any(isinstance(one, RelayUp) for one in node.relay.got)
        node.hear(Muster("", 0))
        parted = [
            [one for one in child.got if isinstance(one, LinkDown)]
            for child in (node.worker, cache)
        ]
        assert [[one.generation for one in found] for found in parted] == [[5], [5]]
        cache.gone.set()  # its end is not handled yet
        node.hear(JoinBeside(WORKER.name, cache.process.name, 6))
        assert not node.outpost._links

    asyncio.run(scenario())


def test_an_outpost_that_was_stopped_itself_gives_the_head_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario() -> None:
        node = Node(beat_s=0.01)
        clock = SimpleNamespace(monotonic=lambda: time.monotonic() + ahead_s)
        ahead_s = 0.0
        monkeypatch.setattr(process, "time", clock)
        node.outpost._heard_s = clock.monotonic()
        listening = asyncio.create_task(node.outpost._listen())
        await asyncio.sleep(0)
        ahead_s = 3600.0
        while node.outpost._heard_s < time.monotonic() + 3500:
            await asyncio.sleep(0.01)
        assert not node.outpost._ended.done()
        listening.cancel()

    asyncio.run(asyncio.wait_for(scenario(), 20))


@pytest.mark.parametrize("message", [RelayCut("cut"), Carry(encode(Muster("", 0)))])
def test_a_cut_and_a_muster_part_all_links(message: Any) -> None:
    async def scenario() -> None:
        node = Node()
        node.link(7)
        node.outpost.on_report(node.relay, message, ())
        assert RelayDown(7) in node.relay.got
        assert [one.generation for one in node.worker.got if isinstance(one, LinkDown)] == [7]
        assert not node.outpost._links

    asyncio.run(scenario())


def test_a_beat_is_sent_back() -> None:
    async def scenario() -> None:
        node = Node()
        node.hear(Beat(3))
        assert node.told(Beat) == [Beat(3)]

    asyncio.run(scenario())


async def run(node: Node, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run its loop without starting or adopting processes; returns why it ended."""
    monkeypatch.setattr(Outpost, "_begin", lambda *_: None)
    monkeypatch.setattr(Orphans, "adopt", lambda *_: None)
    return await asyncio.wait_for(node.outpost.run(), 30)


@pytest.mark.parametrize("heard", [False, True])
def test_without_the_head_it_ends_with_its_children(
    monkeypatch: pytest.MonkeyPatch, heard: bool
) -> None:
    async def scenario() -> None:
        node = Node(beat_s=0.01, **({"headless_s": 0.1} if heard else {"join_s": 0.1}))
        if heard:
            node.outpost.on_report(node.relay, PhaseChange(Phase.READY), ())
            node.hear(Muster("", 0))
        assert await run(node, monkeypatch) == NO_HEAD
        assert not node.worker.alive

    asyncio.run(scenario())


@pytest.mark.parametrize("where", ["task", "callback"])
def test_an_unexpected_error_ends_it(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    async def scenario() -> None:
        node = Node()

        async def fail(self: Watching) -> None:
            raise ZeroDivisionError("by zero")

        if where == "task":
            monkeypatch.setattr(Watching, "run", fail)
        else:
            asyncio.get_running_loop().call_later(0.01, lambda: 1 // 0)
        why = await run(node, monkeypatch)
        assert "an unexpected error" in why
        assert "ZeroDivisionError" in why
        assert not node.worker.alive

    asyncio.run(scenario())


def test_the_head_has_time_to_be_heard_when_the_relay_is_up_again() -> None:
    async def scenario() -> None:
        node = Node()
        node.hear(Muster("", 0))
        node.outpost._heard_s = silent_since_s = time.monotonic() - HOUR_NS
        node.outpost.on_report(node.relay, PhaseChange(Phase.READY), ())
        assert node.outpost._heard_s > silent_since_s

    asyncio.run(scenario())


def test_the_next_process_of_a_child_is_not_taken_for_the_last_one() -> None:
    async def scenario() -> None:
        node = Node()
        node.outpost.on_report(node.worker, PhaseChange(Phase.PROBING), ())
        node.outpost._waiting[WORKER] = node.worker  # type: ignore[assignment]
        node.worker.gone.set()
        node.outpost.on_exit(node.worker, -9)
        assert not node.outpost._waiting
        node.outpost._children[WORKER] = FakeChild(WORKER, node.outpost)  # type: ignore[assignment]
        node.hear(Muster("", 0))
        assert node.told(Roll)[0].children == [Present(WORKER.name, 1, Phase.STARTING)]

    asyncio.run(scenario())


def test_the_end_of_a_link_that_was_replaced_leaves_the_next_one() -> None:
    async def scenario() -> None:
        node = Node()
        node.link(7)
        node.link(8)
        node.hear(PartChild(WORKER.name, ROUTER.name, 7, "replaced"))
        node.worker.gone.set()
        node.outpost.on_exit(node.worker, -9)
        downs = [one for one in node.relay.got if isinstance(one, RelayDown)]
        assert downs == [RelayDown(7), RelayDown(8)]

    asyncio.run(scenario())
