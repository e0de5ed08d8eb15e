"""Requests that moved, as the frontend hears of them and shows them."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from dynamo_cli.config import FrontendConfig
from dynamo_cli.messages.lifecycle import Phase
from dynamo_cli.messages.request import Move, MoveReason, RequestMoved, Submit
from dynamo_cli.messages.routing import Decisions
from dynamo_cli.topology import ROUTER
from dynamo_cli.units import MS_NS
from tests.frontend.stage import PROCESSOR, UNMOVED, Stage, answer, chunks, finish, table
from tests.frontend.test_access import told
from tests.frontend.test_routing import decision
from tests.frontend.test_timelines import told as timeline_of
from tests.frontend.test_tracing import GIVEN, TRACE, spans
from tests.support.otlp import Receiver

PAUSE_NS = 35 * MS_NS


def died(**changes: Any) -> Move:
    plain = Move("worker", 0, 1, MoveReason.DIED, 12, time.monotonic_ns())
    return msgspec.structs.replace(plain, **changes)


def resumed(move: Move) -> Move:
    return msgspec.structs.replace(move, resumed_ns=move.left_ns + PAUSE_NS)


async def samples(stage: Stage) -> dict[tuple[str, str], float]:
    """Values of `/metrics` by name and first label."""
    page = (await stage.get("/metrics"))[2]
    return {
        (sample.name, next(iter(sample.labels.values()), "")): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


async def whole(stage: Stage, name: str, *moves: Move, **headers: str) -> None:
    """A request that a processor moves and then answers."""
    asked = asyncio.create_task(
        stage.post(data=b'{"model": "tiny"}', headers={"X-Request-ID": name, **headers})
    )
    submit = await stage.processor.take(Submit)
    left = [msgspec.structs.replace(move, left_ns=time.monotonic_ns()) for move in moves]
    for move in left:
        stage.processor.send(RequestMoved(submit.request_id, submit.api_id, move))
    ended = tuple(map(resumed, left))
    stage.processor.send(msgspec.structs.replace(answer(submit), worker=1, moves=ended))
    assert (await asked)[0] == 200


MOVED, NOT_MOVED = "dynamo_llm_requests_moved_total", "dynamo_llm_requests_not_moved_total"
GAP = "dynamo_llm_request_move_gap_seconds"


def test_metrics_have_every_reason_and_count_moves_and_gaps() -> None:
    async def scenario() -> None:
        async with Stage() as stage:
            before = await samples(stage)
            for reason in MoveReason:
                assert before[MOVED, reason] == before[NOT_MOVED, reason] == 0
            assert before[f"{GAP}_count", ""] == 0
            await whole(stage, "a", died(), died(source=1, target=0, reason=MoveReason.STALLED))
            after = await samples(stage)
            assert (after[MOVED, "died"], after[MOVED, "stalled"]) == (1, 1)
            assert after[f"{GAP}_count", ""] == 2
            assert after[f"{GAP}_sum", ""] == pytest.approx(0.07)

    asyncio.run(scenario())


def test_a_request_that_found_no_place_is_shown_although_it_failed() -> None:
    async def scenario() -> None:
        async with Stage(UNMOVED) as stage:
            submit, client = await stage.stream()
            stage.processor.send(chunks(submit, b"data: x\n\n"))
            await client.chunk()
            lost = died(target=None)
            stage.processor.send(RequestMoved(submit.request_id, submit.api_id, lost))
            while (await samples(stage))[NOT_MOVED, "died"] != 1:
                await asyncio.sleep(0.005)
            snapshot = (await stage.get("/dynamo/snapshot"))[2]
            assert snapshot["moves"]["not_moved"]["died"] == 1
            (recent,) = snapshot["moves"]["recent"]
            assert (recent["request_id"], recent["from"], recent["to"]) == (
                *(submit.api_id, "worker 0", None),
            )
            assert "not moved" in [alarm["kind"] for alarm in snapshot["alarms"]]
            stage.processor.die()  # nobody tells how the request ended
            while await client.chunk():
                pass
            shown = await timeline_of(stage, submit.api_id)
            assert [(move["to"], move["gap_ms"]) for move in shown["moves"]] == [(None, None)]

    asyncio.run(scenario())


def test_timelines_have_the_moves_and_can_be_chosen_by_them() -> None:
    async def scenario() -> None:
        async with Stage() as stage:
            await whole(stage, "moved", died())
            await whole(stage, "stayed")
            shown = await timeline_of(stage, "moved")
            (move,) = shown["moves"]
            assert (move["from"], move["to"], move["reason"]) == ("worker 0", "worker 1", "died")
            assert (move["output_tokens"], move["gap_ms"]) == (12, 35.0)
            assert 0 <= move["at_ms"] <= shown["stages_ms"]["ended"]
            for value, name in (("true", "moved"), ("false", "stayed")):
                found = (await stage.get(f"/dynamo/timeline?moved={value}"))[2]["timelines"]
                assert [one["request_id"] for one in found] == [name]
            status, _, content = await stage.get("/dynamo/timeline?moved=yes")
            assert status == 400
            assert "moved must be true or false; it is 'yes'" in content["error"]["message"]

    asyncio.run(scenario())


def test_a_stream_that_moved_has_its_moves_too() -> None:
    async def scenario() -> None:
        async with Stage() as stage:
            submit, client = await stage.stream()
            move = died()
            stage.processor.send(chunks(submit, b"data: x\n\n"))
            stage.processor.send(RequestMoved(submit.request_id, submit.api_id, move))
            stage.processor.send(msgspec.structs.replace(finish(submit), moves=(resumed(move),)))
            while await client.chunk():
                pass
            shown = await timeline_of(stage, submit.api_id)
            assert [one["gap_ms"] for one in shown["moves"]] == [35.0], "heard of and told, once"

    asyncio.run(scenario())


def test_decisions_say_from_where_and_can_be_chosen_by_that() -> None:
    async def scenario() -> None:
        async with Stage() as stage:
            router = await stage.neighbour(ROUTER)
            again = msgspec.structs.replace(
                decision("a", 1), moved="died", moved_from=0, output_tokens=12
            )
            router.send(Decisions([decision("a"), decision("b"), again], [], 0))
            while not (found := (await stage.get("/dynamo/decisions?moved=true"))[2]["decisions"]):
                await asyncio.sleep(0.005)
            (one,) = found
            assert (one["worker"], one["moved"], one["moved_from"], one["output_tokens"]) == (
                *(1, "died", 0, 12),
            )
            others = (await stage.get("/dynamo/decisions?moved=false"))[2]["decisions"]
            assert [one["engine_request_id"] for one in others] == ["b", "a"]

    asyncio.run(scenario())


def test_the_access_log_has_the_moves() -> None:
    async def scenario() -> str:
        stage = Stage(FrontendConfig(port=0, access_log=True))
        async with stage:
            await whole(stage, "moved", died())
            await whole(stage, "stayed")
            while len(told(stage.log)) < 2:
                await asyncio.sleep(0.005)
            log, stage.log = stage.log, ""
        return log

    moved, stayed = told(asyncio.run(scenario()))
    assert [one["gap_ms"] for one in moved["moved"]] == [35.0]
    assert "moved" not in stayed


def test_a_trace_has_an_event_for_each_move() -> None:
    async def scenario(receiver: Receiver) -> None:
        config = FrontendConfig(port=0, otlp_endpoint=f"{receiver.url}/v1/traces")
        async with Stage(config) as stage:
            await whole(stage, "a", died(), traceparent=GIVEN)
            root = (await spans(receiver, TRACE))["text_completion tiny"]
            (event,) = root.events
            assert event.name == "moved"
            assert root.begin_ns <= event.at_ns <= root.end_ns
            assert event.attributes == {
                "dynamo.move.from": "worker 0",
                "dynamo.move.to": "worker 1",
                "dynamo.move.reason": "died",
                "dynamo.move.output_tokens": 12,
                "dynamo.move.gap_ms": 35.0,
            }

    with Receiver() as receiver:
        asyncio.run(scenario(receiver))


def test_a_stream_whose_processor_dies_has_that_move_beside_those_of_workers() -> None:
    async def scenario() -> None:
        async with Stage() as stage:
            submit, client = await stage.stream()
            stage.processor.send(chunks(submit, b"data: x\n\n"))
            await client.chunk()
            move = died()
            stage.processor.send(RequestMoved(submit.request_id, submit.api_id, move))
            while (await samples(stage))[MOVED, "died"] != 1:
                await asyncio.sleep(0.005)
            # A token between the two deaths: without, the request may count as their cause.
            stage.processor.send(chunks(submit, b"data: xx\n\n"))
            await client.chunk()
            stage.processor.die()
            stage.tell(table(serving=True, processor=Phase.STARTING))
            again = await stage.neighbour(PROCESSOR)
            stage.tell(table(serving=True))
            resumed = await again.take(Submit)
            again.send(chunks(resumed, b"data: y\n\n"))
            again.send(finish(resumed))
            while await client.chunk():
                pass
            shown = await timeline_of(stage, submit.api_id)
            assert [(one["from"], one["to"]) for one in shown["moves"]] == [
                ("worker 0", "worker 1"),
                ("processor 0", "processor 0"),
            ]
            assert shown["moves"][1]["gap_ms"] is not None
            assert (await samples(stage))[MOVED, "died"] == 2

    asyncio.run(scenario())


def test_what_is_told_of_a_request_that_nobody_waits_for_is_counted_all_the_same() -> None:
    async def scenario() -> None:
        async with Stage() as stage:
            assert stage.processor.process == PROCESSOR
            stage.processor.send(RequestMoved("of nobody", "x", died()))
            while (await samples(stage))[MOVED, "died"] != 1:
                await asyncio.sleep(0.005)

    asyncio.run(scenario())
