"""A switchboard whose links a supervisor opens and closes; both ends are in this process."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import uvloop

from dynamo_cli.errors import Corrupt, TooLarge
from dynamo_cli.host import vital
from dynamo_cli.ipc import switchboard
from dynamo_cli.ipc.codec import Decoder
from dynamo_cli.ipc.link import Link
from dynamo_cli.ipc.ring import HEADER_BYTES
from dynamo_cli.ipc.switchboard import ROUNDS, Handler, Switchboard, join
from dynamo_cli.messages.lifecycle import Drain, LinkDown, LinkUp, Phase, PhaseChange, Stop
from dynamo_cli.messages.routing import RequestEnd
from dynamo_cli.topology import MAX_MESSAGE_BYTES, ProcessId, Role
from dynamo_cli.units import KIB

from .support import HERE, THERE, Party, Recorder, exit_code, fired, fork, ring, spec

CAPACITY = 64 * KIB


class Stage:
    """A supervisor and two processes with a switchboard each."""

    def __init__(self) -> None:
        self.here, self.there = Party(HERE), Party(THERE)
        self.board, self.heard = self.here.board()
        self.other, self.other_heard = self.there.board()

    def use(self, recorder: Recorder) -> None:
        """Use another handler on this side; to be called before `join`."""
        self.board.close()
        self.here.close()
        self.here, self.heard = Party(HERE), recorder
        self.board = Switchboard(self.here.theirs, recorder)

    def join(self, generation: int = 1) -> None:
        a, b = self.here.control, self.there.control
        join(a, b, HERE, THERE, spec=spec(CAPACITY, CAPACITY), generation=generation)

    def joined(self) -> Stage:
        self.join()
        assert self.board.poll(0)
        assert self.other.poll(0)
        self.heard.events.clear()
        self.other_heard.events.clear()
        return self

    def say(self, *payloads: bytes) -> None:
        """Send payloads from there to here."""
        for payload in payloads:
            assert self.other.links[HERE].send(payload)

    def close(self) -> None:
        self.board.close()
        self.other.close()
        self.here.close()
        self.there.close()


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def loop(request: pytest.FixtureRequest) -> Iterator[asyncio.AbstractEventLoop]:
    loop: asyncio.AbstractEventLoop = request.param()
    yield loop
    loop.close()


@pytest.fixture(params=["few", "many"])
def stage(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    """With few links all are looked at, with many those that announce data."""
    if request.param == "many":
        monkeypatch.setattr(switchboard, "MOST_SWEPT", 0)
    stage = Stage()
    yield stage
    stage.close()


def test_a_recorder_is_a_handler(stage: Stage) -> None:
    handler: Handler = stage.heard
    assert handler is stage.heard


def test_joined_processes_hear_of_each_other(stage: Stage) -> None:
    stage.join(generation=7)
    assert stage.board.poll(0)
    assert stage.other.poll(0)
    assert stage.heard.events == [("link", THERE)]
    assert stage.other_heard.events == [("link", HERE)]
    assert stage.board.links[THERE].generation == 7


def test_messages_reach_the_peer(stage: Stage) -> None:
    stage.joined()
    assert stage.board.send(THERE, RequestEnd("r"))
    assert stage.other.poll(0)
    (payload,) = stage.other_heard.payloads()
    assert Decoder(RequestEnd)(payload) == RequestEnd("r")
    assert not stage.other.poll(0)


def test_no_link_no_message(stage: Stage) -> None:
    assert not stage.board.send(THERE, RequestEnd("r"))
    stage.joined()
    assert not stage.board.send(ProcessId(Role.ROUTER), RequestEnd("r"))
    assert stage.board.refused_sends() == 0


def test_the_supervisor_is_heard_and_told(stage: Stage) -> None:
    stage.here.control.send(Drain(1.0))
    stage.here.control.send(Stop())
    assert stage.board.poll(0)
    assert stage.heard.events == [("control", Drain(1.0)), ("control", Stop())]
    stage.board.report(PhaseChange(Phase.READY))
    assert list(stage.here.control.receive()) == [(PhaseChange(Phase.READY), [])]


@pytest.mark.timeout(20)
def test_poll_returns_for_the_supervisor_alone(stage: Stage) -> None:
    """A message of the supervisor ends a poll without timeout."""
    stage.joined()
    stage.here.control.send(Stop())
    assert stage.board.poll(None)
    assert stage.heard.events == [("control", Stop())]


@pytest.mark.timeout(20)
def test_poll_returns_for_a_new_link_alone(stage: Stage) -> None:
    stage.join()
    assert stage.board.poll(None)
    assert stage.heard.events == [("link", THERE)]


def test_poll_ends_once_for_what_may_wake_it(stage: Stage) -> None:
    stage.joined()
    eventfd = os.eventfd(0, os.EFD_NONBLOCK)
    stage.board.wake_by(eventfd)
    os.eventfd_write(eventfd, 1)
    stage.board.poll(5)
    start = time.monotonic()
    assert not stage.board.poll(0.05)
    assert time.monotonic() - start > 0.04
    os.close(eventfd)


def test_a_link_is_heard_whenever_links_become_many(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a link sent while all were looked at, unannounced, is not overlooked afterwards."""
    stage.joined()
    for most in (0, 9):
        monkeypatch.setattr(switchboard, "MOST_SWEPT", most)
        stage.board.poll(0.001)
    stage.say(b"unannounced")
    monkeypatch.setattr(switchboard, "MOST_SWEPT", 0)
    assert stage.board.poll(0)
    assert stage.heard.payloads() == [b"unannounced"]


def test_poll_waits_no_longer_than_it_may(stage: Stage) -> None:
    stage.joined()
    start = time.monotonic()
    assert not stage.board.poll(0.05)
    assert 0.04 < time.monotonic() - start < 5


def test_the_end_of_a_link_comes_behind_what_was_committed(stage: Stage) -> None:
    stage.joined()
    stage.say(b"first", b"last")
    stage.here.control.send(LinkDown(THERE.name, 1, "killed"))
    assert stage.board.poll(0)
    assert stage.heard.events == [
        ("message", THERE, b"first"),
        ("message", THERE, b"last"),
        ("unlink", THERE, "killed"),
    ]
    assert stage.board.links == {}


def test_the_pieces_of_a_committed_message_are_delivered_before_the_end(stage: Stage) -> None:
    """A round that takes only the first pieces must not be the last one."""
    here, there = stage.here.control, stage.there.control
    mib = KIB * KIB
    join(here, there, HERE, THERE, spec=spec(16 * mib, 16 * mib), generation=1)
    stage.board.poll(0)
    stage.other.poll(0)
    large = os.urandom(mib) * 9
    stage.say(large, b"last")
    assert stage.other.links[HERE].pending_bytes == 0
    here.send(LinkDown(THERE.name, 1, "killed"))
    stage.board.poll(0)
    assert stage.heard.payloads() == [large, b"last"]
    assert stage.heard.events[-1] == ("unlink", THERE, "killed")


def test_a_message_of_which_the_rest_was_not_committed_is_not_delivered(stage: Stage) -> None:
    stage.joined()
    stage.say(b"whole", os.urandom(2 * CAPACITY))
    stage.here.control.send(LinkDown(THERE.name, 1, "killed"))
    stage.board.poll(0)
    assert stage.heard.events == [("message", THERE, b"whole"), ("unlink", THERE, "killed")]


def test_a_next_life_replaces_the_link(stage: Stage) -> None:
    stage.joined()
    stage.say(b"from the old life")
    stage.join(generation=2)
    stage.board.poll(0)
    stage.other.poll(0)
    assert stage.heard.events == [
        ("message", THERE, b"from the old life"),
        ("unlink", THERE, "replaced"),
        ("link", THERE),
    ]
    stage.say(b"from the new life")
    assert stage.board.poll(0)
    assert stage.heard.payloads()[-1] == b"from the new life"


def test_the_end_of_an_older_life_is_not_the_end_of_this_one(stage: Stage) -> None:
    stage.joined()
    stage.here.control.send(LinkDown(THERE.name, 0, "killed"))
    stage.here.control.send(LinkDown("router", 1, "killed"))
    stage.board.poll(0)
    assert stage.heard.events == []
    assert list(stage.board.links) == [THERE]


@contextmanager
def spoilt(stage: Stage) -> Iterator[None]:
    """A link whose ring holds a valid record and then a corrupt one."""
    with ring(CAPACITY) as (writer, _, fds), ring(CAPACITY) as (_, _, other):
        stage.here.control.send(LinkUp(THERE.name, 1), (*other, *fds))
        writer.push(b"good")
        stage.board.poll(0)
        assert stage.heard.payloads() == [b"good"]
        stage.heard.events.clear()
        length_at = HEADER_BYTES + 32
        writer.push(b"before")
        writer.push(b"spoilt")
        os.pwrite(fds.memory, (CAPACITY + 1).to_bytes(8, "little"), length_at)
        yield


def test_a_corrupt_link_ends_the_process(stage: Stage) -> None:
    """If the link were only dropped, the peer would wait without end."""
    with spoilt(stage):
        with pytest.raises(Corrupt, match="worker 0"):
            while stage.board.poll(0):
                pass
        assert stage.heard.payloads() == [b"before"]


@pytest.mark.parametrize("message", [LinkDown(THERE.name, 1, "killed"), None])
def test_a_corrupt_link_that_ends_is_unlinked_once(stage: Stage, message: LinkDown | None) -> None:
    with spoilt(stage):
        if message is not None:
            stage.here.control.send(message)
        else:
            stage.join(generation=2)
        stage.board.poll(0)
    assert [event[0] for event in stage.heard.events].count("unlink") == 1
    assert stage.heard.payloads() == [b"before"]


class Picky(Recorder):
    """Raises `Corrupt` for one message."""

    def on_message(self, peer: ProcessId, payload: bytes) -> None:
        if payload == b"nonsense":
            raise Corrupt("nonsense")
        super().on_message(peer, payload)


def test_a_message_that_makes_no_sense_ends_the_process(stage: Stage) -> None:
    stage.use(Picky())
    stage.joined()
    stage.say(b"sense", b"nonsense")
    with pytest.raises(Corrupt, match="worker 0: nonsense"):
        stage.board.poll(0)
    assert stage.heard.events == [("message", THERE, b"sense")]


class Broken(Recorder):
    """Fails like a bug."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self._error = error

    def on_message(self, peer: ProcessId, payload: bytes) -> None:
        raise self._error


@pytest.mark.parametrize("error", [KeyError("nobody expects this"), asyncio.CancelledError()])
@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_what_a_handler_raises_in_a_loop_ends_the_process(
    new_loop: Any, error: BaseException
) -> None:
    """Else the process would go on without ever reading the link again."""

    def main() -> None:
        stage = Stage()
        stage.use(Broken(error))
        stage.joined()
        stage.say(b"anything")
        loop = new_loop()
        stage.board.attach(loop)
        loop.call_later(10, loop.stop)
        loop.run_forever()

    assert exit_code(fork(main)) == vital.EXIT_CODE


@pytest.mark.parametrize(
    ("cancelled", "code"), [("the task", 0), ("what it awaits", vital.EXIT_CODE)]
)
def test_a_watched_task_may_be_cancelled_but_not_what_it_awaits(cancelled: str, code: int) -> None:
    async def wait(awaited: asyncio.Future[None]) -> None:
        await awaited

    async def scenario() -> None:
        awaited: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(wait(awaited))
        vital.watch(task)
        await asyncio.sleep(0)
        (task if cancelled == "the task" else awaited).cancel()
        await asyncio.wait([task])

    assert exit_code(fork(lambda: asyncio.run(scenario()))) == code


def test_what_is_owed_is_taken_by_a_full_link(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dynamo_cli.ipc.link.MAX_PENDING_BYTES", 100)
    stage.joined()
    while stage.board.links[THERE].send(bytes(64)):
        pass
    assert not stage.board.send(THERE, RequestEnd("x" * 60))
    assert stage.board.owe(THERE, RequestEnd("owed" * 50))
    assert not stage.board.owe(ProcessId(Role.ROUTER), RequestEnd("nobody is there"))
    while stage.other.poll(0):
        stage.board.poll(0)
    assert Decoder(RequestEnd)(stage.other_heard.payloads()[-1]) == RequestEnd("owed" * 50)


def test_refusals_are_counted_over_all_lives(stage: Stage) -> None:
    stage.joined()
    link = stage.board.links[THERE]
    assert not link.send(bytes(MAX_MESSAGE_BYTES + 1))
    assert stage.board.refused_sends() == 1
    stage.join(generation=2)
    stage.board.poll(0)
    assert stage.board.links[THERE].refused_sends == 0
    assert not stage.board.links[THERE].send(bytes(MAX_MESSAGE_BYTES + 1))
    assert stage.board.refused_sends() == 2


def test_what_is_too_large_for_any_link_is_told_apart_from_a_full_link(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dynamo_cli.ipc.switchboard.MAX_MESSAGE_BYTES", 1000)
    stage.joined()
    assert stage.board.offer(THERE, RequestEnd("x" * 900))
    assert not stage.board.offer(ProcessId(Role.ROUTER), RequestEnd("nobody is there"))
    with pytest.raises(TooLarge, match="ask for less"):
        stage.board.offer(THERE, RequestEnd("x" * 1001))
    assert stage.board.refused_sends() == 0


def test_depth_is_told_by_the_name_of_the_peer(stage: Stage) -> None:
    stage.joined()
    assert stage.board.depth_bytes() == {"worker 0": 0}
    stage.board.links[THERE].send(bytes(3 * CAPACITY))
    assert stage.board.depth_bytes()["worker 0"] >= 3 * CAPACITY
    while not stage.other_heard.payloads():
        stage.other.poll(0)
        stage.board.poll(0)
    assert stage.board.depth_bytes() == {"worker 0": 0}
    assert stage.other_heard.payloads() == [bytes(3 * CAPACITY)]


class Tireless(Recorder):
    """Makes the peer send another message whenever one is delivered."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self._stage = stage

    def on_message(self, peer: ProcessId, payload: bytes) -> None:
        super().on_message(peer, payload)
        self._stage.say(payload)


@pytest.mark.timeout(20)
def test_a_peer_without_a_pause_leaves_turns_to_others(
    loop: asyncio.AbstractEventLoop, stage: Stage
) -> None:
    stage.use(Tireless(stage))
    stage.joined()
    stage.say(b"and on and on")
    stage.board.attach(loop)
    loop.call_later(0.02, loop.stop)
    loop.run_forever()
    assert len(stage.heard.payloads()) > 2 * ROUNDS


@pytest.mark.parametrize("attached", [True, False])
def test_without_a_supervisor_a_process_ends(attached: bool) -> None:
    party = Party(HERE)

    def main(control: socket.socket) -> None:
        board = Switchboard(control, Recorder())
        if attached:
            loop = asyncio.new_event_loop()
            board.attach(loop)
            loop.run_forever()
        while True:
            board.poll(None)

    pid = party.fork(main)
    party.control.send(Stop())
    party.control.close()
    assert exit_code(pid) == 1


def test_what_is_posted_wakes_a_peer_once_at_the_end(
    stage: Stage, loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.joined()
    link, wake, woken = stage.other.links[HERE], Link.wake, []
    monkeypatch.setattr(Link, "wake", lambda one: (woken.append(one), wake(one)))
    stage.board.attach(loop)
    ends, heard = [RequestEnd(f"{number}") for number in range(6)], []

    async def work() -> None:
        for part in (ends[:3], ends[3:]):
            assert link.arm()
            for end in part:
                assert stage.board.post(THERE, end)
            assert not fired(link.data_fd)
            await asyncio.sleep(0)
            assert fired(link.data_fd)
            heard.extend(link.receive())

    loop.run_until_complete(work())
    assert [Decoder(RequestEnd)(payload) for payload in heard] == ends
    assert len(woken) == 2
    assert not stage.board.post(ProcessId(Role.WORKER, 9), ends[0])
