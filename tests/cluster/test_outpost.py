"""What an outpost does when the head speaks or a child ends, without processes."""

from __future__ import annotations

import asyncio
import signal
from types import SimpleNamespace
from typing import Any

import pytest

from dynamo_cli.cluster_config import Patience, RelayConfig
from dynamo_cli.config import EngineConfig
from dynamo_cli.ipc.codec import Decoder, encode
from dynamo_cli.messages.base import Message
from dynamo_cli.messages.cluster import (
    Beat,
    Carry,
    ChildGone,
    FromOutpost,
    JoinChild,
    Muster,
    Present,
    RelayCut,
    RelayDown,
    RelayUp,
    Roll,
    TellChild,
)
from dynamo_cli.messages.lifecycle import LinkDown, LinkUp, Phase, PhaseChange, Ping, SetPhase
from dynamo_cli.outpost.process import NO_HEAD, RELAY, Outpost
from dynamo_cli.supervisor.child import Child, Start
from dynamo_cli.supervisor.orphans import Orphans
from dynamo_cli.supervisor.post import Post, Versions
from dynamo_cli.supervisor.watching import Watching
from dynamo_cli.topology import ROUTER, ProcessId, Role

WORKER = ProcessId(Role.WORKER, 0)
ENGINE = EngineConfig("tiny", "tiny", ("tiny",))
TIMEOUT_S = 20.0
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
