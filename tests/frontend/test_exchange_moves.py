"""What becomes of calls whose processor is lost."""

from __future__ import annotations

import asyncio
import struct

import pytest

from dynamo_cli.config import Adapter
from dynamo_cli.errors import PeerLost, PoisonRequest
from dynamo_cli.frontend.exchange import CLIENT_LEFT, POISON
from dynamo_cli.messages.admin import LoadAdapter
from dynamo_cli.messages.lifecycle import Rescued
from dynamo_cli.messages.request import (
    Abort,
    Ask,
    Chunk,
    Chunks,
    Finish,
    Head,
    Move,
    MoveReason,
    Question,
    RequestMoved,
    Resume,
    Submit,
    Usage,
)
from dynamo_cli.units import SECOND_NS

from .stage import SSE
from .test_exchange import ONE, TWO, Scene, in_a_loop, reply

GROUPS = struct.pack("<3i", 1, 2, 3)


def later(monkeypatch: pytest.MonkeyPatch, seconds: list[float]) -> None:
    """Let the monotonic clock say `seconds[0]`."""
    monkeypatch.setattr("time.monotonic_ns", lambda: int(seconds[0] * SECOND_NS))


@in_a_loop
async def test_a_request_without_an_answer_goes_to_another_processor_under_another_key() -> None:
    scene = Scene()
    call, kept = scene.submit(), scene.submit()
    before = scene.links.sent[0][1]
    assert isinstance(before, Submit)
    scene.exchange.processor_down(ONE, "SIGKILL")
    target, again = scene.links.sent[-1]
    assert target == TWO
    assert isinstance(again, Submit)
    assert again.request_id not in (before.request_id, kept.key)
    assert (again.body, again.seed, again.created_s) == (
        before.body,
        before.seed,
        before.created_s,
    )
    assert again.resume is None
    scene.exchange.answered(reply_of(before))
    assert not call.answer.done(), "what the lost one said counts no more"
    scene.exchange.answered(reply(call, worker=4))
    assert (await call.answer).worker == 4
    scene.exchange.close(call)
    assert [scene.exchange._loads[one] for one in (TWO,)] == [1]
    assert scene.links.reports == [Rescued("processor 0", 1, 0)]
    assert scene.told == [("api", "processor 0", "processor 1")]
    assert call.moves[0].reason is MoveReason.DIED


def reply_of(message: Submit) -> Head:
    return Head(message.request_id, 200, SSE)


@in_a_loop
async def test_every_request_has_a_seed_of_its_own() -> None:
    scene = Scene()
    for _ in range(2):
        scene.submit()
    seeds = [sent.seed for _, sent in scene.links.sent if isinstance(sent, Submit)]
    assert len(set(seeds)) == 2
    assert all(len(seed) == 16 for seed in seeds)


@in_a_loop
async def test_without_another_processor_it_waits_for_one() -> None:
    scene = Scene(ONE)
    calls = [scene.submit(), scene.submit()]
    scene.exchange.processor_down(ONE, "SIGKILL")
    assert len(scene.links.sent) == 2
    assert scene.told == []
    assert scene.links.reports == [Rescued("processor 0", 2, 0)]
    scene.exchange.close(calls[1], CLIENT_LEFT)
    scene.exchange.processor_up(ONE)
    again = [message for _, message in scene.links.sent if isinstance(message, Submit)][2:]
    assert [message.request_id for message in again] == [calls[0].key]
    scene.exchange.answered(reply(calls[0]))
    await calls[0].answer
    scene.exchange.close(calls[0])
    assert scene.exchange._loads == {ONE: 0}
    assert scene.exchange.load(0).open == 0


@in_a_loop
async def test_it_does_not_wait_for_ever() -> None:
    scene = Scene(ONE, timeout_s=0.01)
    call = scene.submit()
    scene.exchange.processor_down(ONE, "SIGKILL")
    with pytest.raises(PeerLost, match=r"processor 0 stopped .*SIGKILL"):
        await call.answer
    assert scene.told == [("api", "processor 0", None)]
    assert scene.exchange.load(0).open == 0
    scene.exchange.processor_up(ONE)
    assert len(scene.links.sent) == 1


@in_a_loop
async def test_a_question_is_asked_again_and_an_adapter_is_not_loaded_again() -> None:
    scene = Scene(ONE)
    asked = scene.exchange.ask(Question.MODELS, "api")
    loading = scene.exchange.change_adapter(ONE, LoadAdapter, Adapter("name", "/path", 7))
    scene.exchange.processor_up(TWO)
    scene.exchange.processor_down(ONE, "SIGKILL")
    assert scene.links.sent[-1] == (TWO, Ask(asked.key, "api", Question.MODELS))
    with pytest.raises(PeerLost):
        await loading.answer
    assert scene.links.reports == [Rescued("processor 0", 1, 0)]


@in_a_loop
async def test_the_next_processor_is_told_what_the_client_of_a_stream_has() -> None:
    scene = Scene()
    call, written = scene.submit(), list[bytes]()
    scene.exchange.answered(Head(call.key, 200, SSE, worker=0))
    call.write = lambda data: written.append(data) is None
    scene.exchange.chunks(Chunks([Chunk(call.key, b"abc", 1, GROUPS), Chunk(call.key, b"d", 0)]))
    scene.exchange.chunks(Chunks([Chunk(call.key, b"ef", 2, GROUPS)]))
    old = call.key
    scene.exchange.processor_down(ONE, "SIGKILL")
    again = scene.links.last()
    assert isinstance(again, Submit)
    told = "processor 0 stopped while it held this request (SIGKILL); send it again."
    assert again.resume == Resume(3, 6, GROUPS * 2, told)
    scene.exchange.chunks(Chunks([Chunk(old, b"late", 1), Chunk(call.key, b"g", 1, GROUPS)]))
    assert written == [b"abc", b"d", b"ef", b"g"]
    scene.exchange.answered(Head(call.key, 200, SSE, worker=5))
    scene.exchange.finished(Finish(call.key, Usage()))
    assert (await call.finish).request_id == call.key
    assert [move.output_tokens for move in call.moves] == [3]
    assert call.moves[0].resumed_ns >= call.moves[0].left_ns > 0


@in_a_loop
async def test_what_has_ended_does_not_move() -> None:
    scene = Scene()
    stream, whole = scene.submit(), scene.submit()
    scene.exchange.answered(Head(stream.key, 200, SSE))
    scene.exchange.finished(Finish(stream.key, Usage()))
    scene.exchange.answered(reply(whole))
    for processor in (ONE, TWO):
        scene.exchange.processor_down(processor, "SIGKILL")
    assert len(scene.links.sent) == 2
    assert isinstance(await stream.finish, Finish)
    assert (await whole.answer).worker is None


@in_a_loop
async def test_moves_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    later(monkeypatch, clock)
    scene = Scene(limit=2)
    call = scene.submit()
    scene.exchange.answered(Head(call.key, 200, SSE))
    for life in range(3):
        clock[0] += 10
        assert not call.finish.done()
        scene.exchange.chunks(Chunks([Chunk(call.key, b"x", 1)]))
        processor = call.processor
        scene.exchange.processor_down(processor, "SIGKILL")
        scene.exchange.processor_up(processor)
        assert len(call.moves) == min(life + 1, 2)
    assert isinstance(call.finish.exception(), PeerLost)
    assert scene.links.reports[-1] == Rescued(call.processor.name, 0, 1)


@in_a_loop
async def test_a_request_of_which_two_processors_die_gets_no_third(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [0.0]
    later(monkeypatch, clock)
    scene = Scene()
    deadly, innocent = scene.submit(), scene.submit()
    scene.exchange.answered(Head(innocent.key, 200, SSE))
    for processor in (TWO, ONE):
        clock[0] += 1
        scene.exchange.chunks(Chunks([Chunk(innocent.key, b"x", 1)]))
        scene.exchange.processor_down(processor, "SIGSEGV")
        scene.exchange.processor_up(processor)
    assert not deadly.answer.done(), "it was on one of them only"
    clock[0] += 1
    scene.exchange.chunks(Chunks([Chunk(innocent.key, b"x", 1)]))
    scene.exchange.processor_down(deadly.processor, "SIGSEGV")
    assert isinstance(deadly.answer.exception(), PoisonRequest)
    assert not innocent.finish.done()


@in_a_loop
async def test_a_whole_answer_that_has_begun_each_time_is_not_suspected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [0.0]
    later(monkeypatch, clock)
    scene = Scene()
    call = scene.submit()
    for processor in (ONE, TWO):
        clock[0] += 1
        scene.exchange.begun(["another", call.key])
        scene.exchange.processor_down(processor, "SIGKILL")
        scene.exchange.processor_up(processor)
    assert not call.answer.done()
    clock[0] += 1
    scene.exchange.processor_down(call.processor, "SIGKILL")
    assert isinstance(call.answer.exception(), PoisonRequest)


def moved(key: str, source: int, tokens: int, at_s: float) -> RequestMoved:
    move = Move("worker", source, 1, MoveReason.DIED, tokens, int(at_s * SECOND_NS))
    return RequestMoved(key, "api", move)


@in_a_loop
async def test_a_request_of_which_two_workers_die_is_ended() -> None:
    scene = Scene()
    deadly, innocent = scene.submit(), scene.submit()
    for worker, tokens, at_s in ((0, 5, 1.0), (0, 5, 1.5), (1, 9, 3.0)):
        scene.exchange.moved(moved(innocent.key, worker, tokens, at_s))
        scene.exchange.moved(moved(deadly.key, worker, 5, at_s))
    assert isinstance(deadly.answer.exception(), PoisonRequest)
    assert (deadly.processor, Abort(deadly.key, POISON)) in scene.links.sent
    assert not innocent.answer.done(), "it has gone on in between"


@in_a_loop
async def test_workers_that_are_drained_are_no_deaths() -> None:
    scene = Scene()
    call = scene.submit()
    for source in range(4):
        move = Move("worker", source, 9, MoveReason.DRAINED, 0, source * 10 * SECOND_NS)
        scene.exchange.moved(RequestMoved(call.key, "api", move))
    await asyncio.sleep(0)
    assert not call.answer.done()


@in_a_loop
async def test_a_processor_that_dies_while_calls_wait_for_it_has_not_had_them() -> None:
    scene = Scene(ONE)
    call = scene.submit()
    scene.exchange.processor_down(ONE, "SIGKILL")
    before = call.patience
    for _ in range(3):  # each life ends before it can take requests
        scene.exchange.processor_down(ONE, "SIGKILL")
    assert call.patience is before, "its time goes on"
    assert call.deaths.count == 1
    assert scene.links.reports[1:] == [Rescued("processor 0", 0, 0)] * 3
    scene.exchange.processor_up(ONE)
    assert before is not None
    assert before.cancelled()
    scene.exchange.answered(reply(call, worker=4))
    assert (await call.answer).worker == 4


@in_a_loop
async def test_a_processor_that_is_stalled_has_not_died_of_its_requests(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [100.0]
    later(monkeypatch, clock)
    scene = Scene()
    call = scene.submit()
    for _ in range(2):
        source = call.processor
        scene.exchange.processor_down(source, "stalled: no sign of life for 30 s")
        scene.exchange.processor_up(source)
        clock[0] += 10
    assert [move.reason for move in call.moves] == [MoveReason.STALLED] * 2
    assert call.deaths.count == 0
    assert not call.answer.done()
