"""What an outpost does when the head speaks or a child ends, without processes."""

from __future__ import annotations

import asyncio
import errno
import time
from types import SimpleNamespace
from typing import Any

import pytest

from dynamo_cli.ipc.codec import encode
from dynamo_cli.ipc.control import Control
from dynamo_cli.ipc.link import RingFds, create_ring
from dynamo_cli.messages.cluster import (
    HEAD_UNHEARD,
    Beat,
    Carry,
    ChildGone,
    ChildWrote,
    JoinBeside,
    JoinChild,
    LivingChildren,
    PartChild,
    Present,
    RelayConnection,
    RelayCut,
    RelayDown,
    RelayUp,
    ResetLinks,
    TellChild,
)
from dynamo_cli.messages.flows import ToChild
from dynamo_cli.messages.lifecycle import (
    LinkDown,
    LinkUp,
    PeerEnded,
    Phase,
    PhaseChange,
    Ping,
    SetPhase,
)
from dynamo_cli.outpost import process
from dynamo_cli.outpost.process import RELAY, Outpost
from dynamo_cli.supervisor.logs import SENT_CHARS, TAIL_CHARS, LogLines, OutputLine
from dynamo_cli.supervisor.orphans import Orphans
from dynamo_cli.supervisor.watching import Watching
from dynamo_cli.topology import ROUTER, ZYGOTE, ProcessId, Role
from tests.cluster.outposts import (
    WORKER,
    FakeChild,
    Node,
    decoded,
)


def test_a_worker_that_the_head_found_ready_is_asked_for_signs_of_life() -> None:
    async def scenario() -> None:
        node = Node()
        node.outpost.on_report(node.worker, PhaseChange(Phase.PROBING), ())
        node.outpost._watching._look()
        assert Ping() not in node.worker.got
        node.hear(TellChild(WORKER.name, encode(SetPhase(Phase.READY))))
        node.outpost._watching._look()
        assert node.worker.got == [SetPhase(Phase.READY), Ping()]
        node.hear(ResetLinks("", 0))  # it is probed once more after its links were made anew
        assert node.told(LivingChildren)[0].children == [Present(WORKER.name, 1, Phase.PROBING)]

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


def test_two_children_are_joined_without_the_relay_and_parted_by_a_reset() -> None:
    async def scenario() -> None:
        node = Node()
        cache = FakeChild(ProcessId(Role.HOST_CACHE, 1), node.outpost)
        node.outpost._children[cache.process] = cache  # type: ignore[assignment]
        node.hear(JoinBeside(WORKER.name, cache.process.name, 5))
        assert node.worker.got == [LinkUp("host cache 1", 5)]
        assert cache.got == [LinkUp("worker 0", 5)]
        assert not any(isinstance(one, RelayUp) for one in node.relay.got)
        node.hear(ResetLinks("", 0))
        parted = [
            [one for one in child.got if isinstance(one, LinkDown)]
            for child in (node.worker, cache)
        ]
        assert [[one.generation for one in found] for found in parted] == [[5], [5]]
        cache.gone.set()  # its end is not handled yet
        node.hear(JoinBeside(WORKER.name, cache.process.name, 6))
        assert not node.outpost._links

    asyncio.run(scenario())


def told_of_links(child: FakeChild) -> list[Any]:
    """What it has been told of links that are gone, and of processes; and forget that."""
    found = [one for one in child.got if isinstance(one, LinkDown | PeerEnded)]
    child.got.clear()
    return found


def test_the_host_cache_is_told_of_the_end_of_an_engine_after_that_of_its_link() -> None:
    async def scenario() -> None:
        node = Node()
        cache = FakeChild(ProcessId(Role.HOST_CACHE, 1), node.outpost)
        node.outpost._children[cache.process] = cache  # type: ignore[assignment]
        node.hear(JoinBeside(WORKER.name, cache.process.name, 5))
        node.hear(ResetLinks("", 0))
        assert [type(one) for one in told_of_links(cache)] == [LinkDown]
        node.hear(JoinBeside(WORKER.name, cache.process.name, 6))
        told_of_links(node.worker)
        node.worker.gone.set()
        node.outpost.on_exit(node.worker, -9)
        assert told_of_links(cache) == []  # it has not read what the engine had written
        node.hear(PartChild(cache.process.name, WORKER.name, 6, "it ended"))
        ended = PeerEnded(WORKER.name)
        assert told_of_links(cache) == [LinkDown(WORKER.name, 6, "it ended"), ended]
        assert told_of_links(node.worker) == []

    asyncio.run(scenario())


@pytest.mark.parametrize("dies_first", [False, True])
def test_an_engine_that_ends_while_the_head_is_away_leaves_its_slots(*, dies_first: bool) -> None:
    async def scenario() -> None:
        node = Node()
        cache = FakeChild(ProcessId(Role.HOST_CACHE, 1), node.outpost)
        node.outpost._children[cache.process] = cache  # type: ignore[assignment]
        node.hear(JoinBeside(WORKER.name, cache.process.name, 5))
        if not dies_first:
            node.outpost.on_report(node.relay, RelayCut("cut"), ())
        node.worker.gone.set()
        node.outpost.on_exit(node.worker, -9)
        if dies_first:
            node.outpost.on_report(node.relay, RelayCut("cut"), ())
        told = [LinkDown(WORKER.name, 5, "cut"), PeerEnded(WORKER.name)]
        assert told_of_links(cache) == told

    asyncio.run(scenario())


def test_an_outpost_that_was_stopped_itself_gives_the_head_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario() -> None:
        ahead_s = 0.0
        clock = SimpleNamespace(monotonic=lambda: time.monotonic() + ahead_s)
        monkeypatch.setattr(process, "time", clock)
        node = Node(beat_s=0.01)
        listening = asyncio.create_task(node.outpost._listen())
        ahead_s = 3600.0
        for _ in range(3):
            looked = node.outpost._awake._before_s
            while node.outpost._awake._before_s == looked:
                await asyncio.sleep(0.01)
        assert not node.outpost._ended.done()
        listening.cancel()

    asyncio.run(asyncio.wait_for(scenario(), 20))


@pytest.mark.parametrize("message", [RelayCut("cut"), Carry(encode(ResetLinks("", 0)))])
def test_a_cut_and_a_reset_part_all_links(message: Any) -> None:
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


@pytest.mark.parametrize("limit", ["join_s", "headless_s", "frozen_s"])
def test_without_the_head_it_ends_with_its_children(
    monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    """It waits longest for a head that it has not heard yet, or has a connection to."""

    async def scenario() -> None:
        node = Node(beat_s=0.01, **{limit: 0.1})
        if limit != "join_s":
            node.outpost.on_report(node.relay, PhaseChange(Phase.READY), ())
            node.hear(ResetLinks("", 0))
        node.outpost.on_report(node.relay, RelayConnection(limit == "frozen_s"), ())
        assert await run(node, monkeypatch) == f"{HEAD_UNHEARD} for 0 s"
        assert not node.worker.alive

    asyncio.run(scenario())


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[ProcessId]:
    """What the outpost starts of its own children; no process is."""
    found: list[ProcessId] = []
    monkeypatch.setattr(Outpost, "_begin", lambda _, one, __: found.append(one))
    return found


def test_a_relay_that_was_started_again_has_no_connection_yet(begun: list[ProcessId]) -> None:
    async def scenario() -> None:
        node = Node()
        timeouts = node.outpost._post.timeouts
        node.outpost.on_report(node.relay, PhaseChange(Phase.READY), ())
        node.hear(ResetLinks("", 0))
        node.outpost.on_report(node.relay, RelayConnection(True), ())
        assert node.outpost._limit_s == timeouts.frozen_s
        node.relay.gone.set()
        node.outpost.on_exit(node.relay, -9)
        assert node.outpost._limit_s == timeouts.join_s  # it cannot hear the head without a relay
        await asyncio.sleep(0.01)
        again = FakeChild(RELAY, node.outpost)
        node.outpost._children[RELAY] = again  # type: ignore[assignment]
        node.outpost.on_report(again, PhaseChange(Phase.READY), ())
        assert node.outpost._limit_s == timeouts.headless_s

    asyncio.run(scenario())
    assert begun == [RELAY]


def test_a_relay_that_hangs_is_started_again(begun: list[ProcessId]) -> None:
    """The engines go on."""

    async def scenario() -> None:
        node = Node()
        node.outpost.on_report(node.relay, PhaseChange(Phase.READY), ())
        node.outpost._watching._look()
        assert Ping() in node.relay.got
        node.relay.give_up("no sign of life for 5 s")
        node.outpost.on_exit(node.relay, -9)
        await asyncio.sleep(0.01)
        assert not node.outpost._ended.done()

    asyncio.run(scenario())
    assert begun == [RELAY]


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
        node.hear(ResetLinks("", 0))
        node.outpost._heard_s = silent_since_s = -3600.0
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
        node.hear(ResetLinks("", 0))
        assert node.told(LivingChildren)[0].children == [Present(WORKER.name, 1, Phase.STARTING)]

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


def test_the_outpost_speaks_for_its_own_children() -> None:
    async def scenario() -> None:
        node = Node()
        node.outpost._children[ZYGOTE] = FakeChild(ZYGOTE, node.outpost)  # type: ignore[assignment]
        node.hear(ResetLinks("", 0))
        assert [one.process for one in node.told(LivingChildren)[0].children] == [WORKER.name]
        for child in (node.relay, node.worker):
            node.outpost.on_log(child, OutputLine("INFO", "text"))
        wrote = [(one.process, one.number) for one in node.told(ChildWrote)]
        assert wrote == [("", 1), (WORKER.name, 2)]
        node.relay.failure = ("PortInUse", "it cannot connect")
        node.relay.gone.set()
        node.outpost.on_exit(node.relay, 1)
        assert await node.outpost._ended == "relay 0: it cannot connect"

    asyncio.run(scenario())


def test_a_link_has_its_sizes_whichever_end_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    made: dict[str, int] = {}

    def make(size_bytes: int, name: str) -> RingFds:
        made[name] = size_bytes
        return create_ring(size_bytes, name)

    monkeypatch.setattr("dynamo_cli.ipc.link.create_ring", make)

    async def scenario() -> None:
        node = Node()
        node.link(7)
        node.hear(JoinChild(WORKER.name, "processor 0", 8))

    asyncio.run(scenario())
    assert made["worker 0 to router"] > made["router to worker 0"]
    assert made["processor 0 to worker 0"] > made["worker 0 to processor 0"]


@pytest.mark.parametrize("size", [300_000, 1 << 20])
def test_a_very_long_line_of_a_child_ends_nothing(size: int) -> None:
    """As vLLM prints when a step fails: what it was given to do, in one line."""

    async def scenario() -> None:
        node = Node()
        node.relay.control, theirs = Control.pair()
        relay = Control(theirs, ToChild)
        (line,) = LogLines().feed(b"x" * size + b"\n")
        node.outpost.on_log(node.worker, line)
        node.hear(Beat(3))
        wrote, beat = (decoded(carried.payload) for carried, _ in relay.receive())
        assert wrote.text == f"{'x' * SENT_CHARS} ... (cut: it has {size:,} characters)"
        assert beat == Beat(3)
        for control in (node.relay.control, relay):
            control.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("size", [300_000, 5 << 20])
def test_a_large_message_of_the_head_reaches_the_child(size: int) -> None:
    async def scenario() -> None:
        node = Node()
        node.worker.control, theirs = Control.pair()
        child = Control(theirs, ToChild)
        told = LinkDown(ROUTER.name, 1, "x" * size)
        node.hear(TellChild(WORKER.name, encode(told)))
        assert list(child.receive()) == [(told, [])]
        for control in (node.worker.control, child):
            control.close()

    asyncio.run(scenario())


def test_the_reason_of_a_phase_is_short_however_much_a_process_has_said() -> None:
    """Each change of any process sends the reasons of all of them."""

    async def scenario() -> None:
        node = Node()
        node.worker.move_to(Phase.BACKOFF, "x" * 1_000_000)
        shown = node.worker.state(0).reason
        assert shown == f"{'x' * TAIL_CHARS} ... (cut: it has 1,000,000 characters)"

    asyncio.run(scenario())


@pytest.mark.parametrize("order", [JoinChild, JoinBeside])
def test_a_child_whose_link_cannot_be_made_ends_alone(
    monkeypatch: pytest.MonkeyPatch, order: type[JoinChild | JoinBeside]
) -> None:
    """Else the outpost would end, and all engines of the node with it."""

    def refuse(size_bytes: int, name: str) -> RingFds:
        raise OSError(errno.EMFILE, "too many open files")

    async def scenario() -> None:
        node = Node()
        cache = FakeChild(ProcessId(Role.HOST_CACHE, 1), node.outpost)
        node.outpost._children[cache.process] = cache  # type: ignore[assignment]
        monkeypatch.setattr("dynamo_cli.ipc.link.create_ring", refuse)
        peer = "router" if order is JoinChild else cache.process.name
        node.hear(order(WORKER.name, peer, 7))
        why = f"its link with {peer} cannot be made: too many open files"
        assert node.worker.failure == ("ResourceError", why)
        assert not node.worker.alive
        assert cache.alive
        assert node.relay.got == [RelayDown(7)]
        assert not node.outpost._ended.done()

    asyncio.run(scenario())
