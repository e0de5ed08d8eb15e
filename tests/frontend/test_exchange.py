"""The exchange between HTTP handlers and processors, with links played by the test."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from dynamo_cli.config import Adapter, MigrationRule
from dynamo_cli.errors import Draining, NotReady, Overloaded, PeerLost
from dynamo_cli.frontend.call import Call
from dynamo_cli.frontend.exchange import CLIENT_LEFT, SLOW_READER, Exchange
from dynamo_cli.messages.admin import LoadAdapter
from dynamo_cli.messages.base import Message
from dynamo_cli.messages.lifecycle import Rescued
from dynamo_cli.messages.request import (
    Abort,
    Ask,
    Chunk,
    Chunks,
    Endpoint,
    Finish,
    ForProcessor,
    Head,
    Question,
    Reply,
    Submit,
    SubmitProbe,
    Usage,
)
from dynamo_cli.topology import ProcessId, Role
from dynamo_cli.units import MS_NS, SECOND_NS
from dynamo_cli.watch.meter import Meter
from dynamo_cli.watch.queues import PendingAnswers

ONE, TWO = ProcessId(Role.PROCESSOR, 0), ProcessId(Role.PROCESSOR, 1)


class Links:
    """In the place of the switchboard: keeps what is sent; a link can be full."""

    def __init__(self, *peers: ProcessId) -> None:
        self.links: dict[ProcessId, object] = dict.fromkeys(peers, object())
        self.full: set[ProcessId] = set()
        self.sent: list[tuple[ProcessId, Message]] = []
        self.reports: list[Message] = []

    def send(self, peer: ProcessId, message: Message) -> bool:
        if peer in self.full:
            return False
        self.sent.append((peer, message))
        return True

    def owe(self, peer: ProcessId, message: Message) -> bool:
        self.sent.append((peer, message))
        return True

    def report(self, message: Message) -> None:
        self.reports.append(message)

    def last(self) -> Any:
        return self.sent[-1][1]


class Scene:
    """An exchange with two processors that take requests; call `submit` inside a loop."""

    def __init__(self, *up: ProcessId, limit: int = 3, timeout_s: float = 30.0) -> None:
        self.links, self.meter = Links(ONE, TWO), Meter()
        self.exchange = Exchange(
            self.links,  # type: ignore[arg-type]
            self.meter,
            MigrationRule(limit, timeout_s),
        )
        for processor in up or (ONE, TWO):
            self.exchange.processor_up(processor)

    @property
    def told(self) -> list[tuple[str, str, str | None]]:
        """Moves that are counted, the last one first: the client's id, from where to where."""
        view = self.meter.moves.view(0)
        return [(move.request_id, move.source, move.target) for move in view.recent]

    def submit(self, arrival_ns: int = 0) -> Call:
        return self.exchange.submit(Endpoint.CHAT, b"{}", [], "api", arrival_ns)


def in_a_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a test in an event loop of its own."""

    @functools.wraps(test)
    def run(*args: Any, **fixtures: Any) -> None:
        asyncio.run(test(*args, **fixtures))

    return run


def reply(call: Call, worker: int | None = None) -> Reply:
    return Reply(call.key, 200, "application/json", b"{}", Usage(), worker=worker)


@in_a_loop
async def test_calls_go_to_the_processor_with_the_fewest() -> None:
    scene = Scene()
    first, second, third = (scene.submit() for _ in range(3))
    assert [call.processor for call in (first, second, third)] == [ONE, TWO, ONE]
    scene.exchange.close(first)
    scene.exchange.close(first)  # a second time changes nothing
    scene.exchange.close(third)
    assert [scene.submit().processor for _ in range(3)] == [ONE, ONE, TWO]
    assert scene.exchange.load(0).open == 4


@in_a_loop
async def test_what_is_sent_has_a_key_of_its_own_and_the_id_of_the_client() -> None:
    scene = Scene(ONE)
    calls = [scene.submit(), scene.submit(), scene.exchange.ask(Question.MODELS, "api")]
    sent = [message for _, message in scene.links.sent]
    assert [type(message) for message in sent] == [Submit, Submit, Ask]
    assert all(isinstance(one, ForProcessor) and one.api_id == "api" for one in sent)
    assert len({call.key for call in calls}) == 3


@in_a_loop
async def test_a_full_link_refuses_and_leaves_no_call() -> None:
    scene = Scene(ONE)
    scene.links.full.add(ONE)
    with pytest.raises(Overloaded, match="processor 0"):
        scene.submit()
    assert scene.exchange.load(0).open == 0
    scene.exchange.processor_up(TWO)
    assert [scene.exchange._loads[one] for one in (ONE, TWO)] == [0, 0]


@in_a_loop
async def test_without_a_processor_nothing_is_sent() -> None:
    scene = Scene(ONE)
    scene.exchange.processor_down(ONE, "SIGKILL")
    with pytest.raises(NotReady):
        scene.submit()
    assert scene.links.sent == []


@in_a_loop
async def test_without_moves_a_processor_that_is_gone_fails_its_calls_alone() -> None:
    scene = Scene(limit=0)
    lost, kept = scene.submit(), scene.submit()
    scene.exchange.processor_down(ONE, "SIGKILL")
    with pytest.raises(PeerLost, match="SIGKILL"):
        await lost.answer
    assert isinstance(lost.finish.exception(), PeerLost)
    assert not kept.answer.done()
    assert scene.links.reports == [Rescued("processor 0", 0, 1)]
    assert scene.exchange.processors == [TWO]
    scene.exchange.processor_up(ONE)
    scene.exchange.close(lost)  # the handler comes later, and must not count it down again
    assert scene.submit().processor == ONE


@in_a_loop
async def test_adapters_go_to_processors_that_take_no_requests_yet() -> None:
    scene = Scene(ONE)
    adapter = Adapter("name", "/path", 7)
    call = scene.exchange.change_adapter(TWO, LoadAdapter, adapter)
    assert scene.links.sent == [(TWO, LoadAdapter(call.key, "adapter-7", adapter))]
    scene.exchange.answered(reply(call))
    assert (await call.answer).status == 200
    scene.exchange.close(call)
    assert scene.exchange.processors == [ONE]


@in_a_loop
async def test_an_answer_names_the_worker_and_a_second_one_is_ignored() -> None:
    scene = Scene(ONE)
    call = scene.submit()
    scene.exchange.answered(reply(call, worker=3))
    scene.exchange.answered(Head(call.key, 200, "text/event-stream", worker=4))
    assert (call.worker, await call.answer) == (3, reply(call, worker=3))
    scene.exchange.close(call)
    scene.exchange.answered(reply(call, worker=5))
    scene.exchange.finished(Finish(call.key, Usage()))
    assert not call.finish.done()


@in_a_loop
async def test_bytes_that_come_before_the_head_is_sent_are_kept_in_order() -> None:
    scene = Scene(ONE)
    call, written = scene.submit(), list[bytes]()
    scene.exchange.chunks(Chunks([Chunk(call.key, b"a", 1), Chunk("of nobody", b"x", 1)]))
    scene.exchange.chunks(Chunks([Chunk(call.key, b"b", 1)]))

    def sink(data: bytes) -> bool:
        written.append(data)
        return True

    call.write_to(sink)
    scene.exchange.chunks(Chunks([Chunk(call.key, b"c", 1)]))
    assert written == [b"ab", b"c"]


@in_a_loop
async def test_a_slow_reader_is_given_up_and_its_processor_told() -> None:
    scene = Scene(ONE)
    slow, other, written = scene.submit(), scene.submit(), list[bytes]()
    slow.write = lambda data: False
    other.write = lambda data: written.append(data) is None
    both = Chunks([Chunk(slow.key, b"s", 1), Chunk(other.key, b"o", 1)])
    scene.exchange.chunks(both)
    scene.exchange.chunks(both)
    assert written == [b"o", b"o"]
    aborts = [message for _, message in scene.links.sent if isinstance(message, Abort)]
    assert aborts == [Abort(slow.key, SLOW_READER)]
    assert (slow.abort, dict(scene.meter.aborts)) == (SLOW_READER, {SLOW_READER: 1})


@in_a_loop
async def test_times_of_tokens_are_those_of_their_arrival(monkeypatch: pytest.MonkeyPatch) -> None:
    scene, now = Scene(ONE), 100 * MS_NS
    monkeypatch.setattr("time.monotonic_ns", lambda: now)
    call = scene.submit(arrival_ns=90 * MS_NS)
    call.worker = 2
    for at_ms, tokens in ((100, 0), (110, 1), (115, 2)):
        now = at_ms * MS_NS
        scene.exchange.chunks(Chunks([Chunk(call.key, b"x", tokens)]))
    assert scene.meter.ttft.total == pytest.approx(0.020)
    assert scene.meter.itl.total == pytest.approx(0.005)
    assert (call.first_token_ns, call.last_token_ns) == (110 * MS_NS, 115 * MS_NS)
    assert list(scene.meter.workers) == [2]


@in_a_loop
async def test_at_the_end_every_call_fails_here_and_is_aborted_there() -> None:
    scene = Scene()
    calls = [scene.submit(), scene.submit()]
    scene.exchange.abort_all(CLIENT_LEFT, Draining("over."))
    for call in calls:
        with pytest.raises(Draining):
            await call.answer
        assert (call.processor, Abort(call.key, CLIENT_LEFT)) in scene.links.sent
    assert scene.exchange.load(0).open == 0


@in_a_loop
async def test_a_probe_waits_for_a_processor_and_is_repeated_when_it_is_lost() -> None:
    scene = Scene(ONE)
    scene.exchange.processor_down(ONE, "SIGKILL")
    probing = asyncio.create_task(scene.exchange.probe(3, timeout_s=30))
    await asyncio.sleep(0)
    assert scene.links.sent == []
    scene.exchange.processor_up(ONE)
    while not scene.links.sent:
        await asyncio.sleep(0)
    first = scene.links.last()
    assert isinstance(first, SubmitProbe)
    assert (first.worker, first.api_id) == (3, "probe-3")
    scene.exchange.processor_down(ONE, "SIGKILL")
    scene.exchange.processor_up(TWO)
    while scene.links.last() is first:
        await asyncio.sleep(0.005)
    again = scene.links.last()
    assert (scene.links.sent[-1][0], again.request_id != first.request_id) == (TWO, True)
    scene.exchange.answered(Reply(again.request_id, 200, "application/json", b"{}", Usage()))
    answer = await probing
    assert isinstance(answer, Reply)
    assert scene.exchange.load(0).open == 0


@in_a_loop
async def test_a_probe_without_an_answer_ends() -> None:
    scene = Scene(ONE)
    with pytest.raises(TimeoutError):
        await scene.exchange.probe(0, timeout_s=0.01)
    assert scene.exchange.load(0).open == 0


@in_a_loop
async def test_requests_without_a_token_are_counted_with_the_age_of_the_oldest() -> None:
    scene = Scene(ONE)
    old, streamed, whole = (scene.submit(arrival_ns=at * SECOND_NS) for at in (2, 5, 6))
    scene.exchange.ask(Question.MODELS, "b")
    assert scene.exchange.load(9 * SECOND_NS) == PendingAnswers(4, 3, 3, 7.0)
    scene.exchange.chunks(Chunks([Chunk(streamed.key, b"a", 1)]))
    scene.exchange.begun([whole.key])
    assert scene.exchange.load(9 * SECOND_NS) == PendingAnswers(4, 3, 1, 7.0)
    scene.exchange.close(old)
    assert scene.exchange.load(9 * SECOND_NS) == PendingAnswers(3, 2, 0, 0.0)


@in_a_loop
async def test_a_call_whose_client_has_left_is_not_waited_for() -> None:
    scene = Scene(ONE)
    call = scene.submit(arrival_ns=0)
    call.answer.cancel()  # as the task that awaits it is, before it can close the call
    assert scene.exchange.load(SECOND_NS) == PendingAnswers(1, 1, 0, 0.0)
    scene.exchange.processor_down(ONE, "SIGKILL")
    assert scene.links.reports[-1] == Rescued(ONE.name, 0, 0)
