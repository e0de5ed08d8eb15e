"""Traces of requests: ids in headers, and spans at a receiver."""

from __future__ import annotations

import asyncio
import re
import time
from typing import Any

import msgspec
import pytest

from dynamo_cli.config import FrontendConfig
from dynamo_cli.frontend.after.tracing import attributes
from dynamo_cli.frontend.http.traceparent import TraceContext, begin, parse
from dynamo_cli.messages.request import Submit, Timeline, Usage
from dynamo_cli.watch.stages import stages
from dynamo_cli.watch.timelines import RequestRecord
from tests.frontend.stage import Stage, answer, chunks, finish
from tests.support.otlp import Receiver, Span

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
GIVEN = f"00-{TRACE}-{CALLER}-01"


def test_a_callers_header_is_read() -> None:
    context = parse(GIVEN)
    assert context == TraceContext(int(TRACE, 16), int(CALLER, 16), True)
    assert context.header == GIVEN
    assert parse(f"cc-{TRACE}-{CALLER}-02-what-comes-later") == TraceContext(
        int(TRACE, 16), int(CALLER, 16), False
    )


@pytest.mark.parametrize(
    "header",
    [
        *(None, "", "00", GIVEN.upper(), f"ff-{TRACE}-{CALLER}-01", f"{GIVEN}-more"),
        *(f"00-{'0' * 32}-{CALLER}-01", f"00-{TRACE}-{'0' * 16}-01", f"00-{TRACE}-{CALLER}"),
    ],
)
def test_what_is_no_header_begins_a_trace(header: str | None) -> None:
    assert parse(header) is None
    new = begin(header)
    assert new.sampled
    assert new.parent_id == 0
    assert new.trace_id != int(TRACE, 16)
    assert begin(header).trace_id != new.trace_id


def record(**changes: Any) -> RequestRecord:
    plain = RequestRecord(
        request_id="a",
        endpoint="/v1/chat/completions",
        model="tiny",
        status=200,
        arrival_ns=100,
        ended_ns=1000,
        finish_reason="stop",
        worker=1,
        processor=0,
        streamed=True,
        usage=Usage(10, 4, 3),
        first_byte_ns=700,
        timeline=Timeline(
            received_ns=200,
            prepared_ns=300,
            routed_ns=350,
            sent_ns=400,
            queued_ns=450,
            scheduled_ns=500,
            first_token_ns=600,
            ended_ns=900,
        ),
    )
    return msgspec.structs.replace(plain, **changes)


def test_a_request_is_cut_into_stages_where_its_timeline_has_ends() -> None:
    assert list(stages(record())) == [
        ("receive", "frontend", 100, 200),
        ("tokenize", "processor 0", 200, 300),
        ("route", "router", 300, 350),
        ("queue", "worker 1", 400, 500),
        ("prefill", "worker 1", 500, 600),
        ("decode", "worker 1", 600, 900),
    ]
    remote = msgspec.structs.replace(
        record().timeline, pushed_ns=410, leased_ns=420, prefilled_ns=440, prefill_worker=2
    )
    assert list(stages(record(timeline=remote)))[3:6] == [
        ("prefill queue", "prefill queue", 410, 420),
        ("remote prefill", "prefill worker 2", 420, 440),
        ("queue", "worker 1", 450, 500),
    ]
    assert [stage.name for stage in stages(record(timeline=Timeline(received_ns=200)))] == [
        "receive"
    ]
    assert list(stages(record(timeline=Timeline()))) == []


def test_attributes_have_the_names_of_the_conventions() -> None:
    told = attributes(record())
    assert told["gen_ai.operation.name"] == "chat"
    assert told["gen_ai.response.finish_reasons"] == ("stop",)
    assert told["gen_ai.response.time_to_first_chunk"] == pytest.approx(600e-9)
    assert "error.type" not in told
    refused = attributes(record(endpoint="/tokenize", error="NotReady", worker=None))
    assert refused["error.type"] == "NotReady"
    assert not {"gen_ai.operation.name", "dynamo.worker"} & refused.keys()


async def traced(stage: Stage, header: str | None) -> tuple[str, str]:
    """Send a request: the `traceparent` of its answer, and what the processor got."""
    headers = {"traceparent": header} if header else {}
    asked = asyncio.create_task(stage.post(data=b'{"model": "tiny"}', headers=headers))
    submit = await stage.processor.take(Submit)
    now = time.monotonic_ns()
    timeline = Timeline(received_ns=now, prepared_ns=now + 1000)
    stage.processor.send(msgspec.structs.replace(answer(submit), worker=0, timeline=timeline))
    returned = (await asked)[1].get("traceparent", "")
    return returned, dict(submit.headers).get("traceparent", "")


async def spans(receiver: Receiver, trace_id: str) -> dict[str, Span]:
    while not (found := receiver.trace(trace_id)):
        await asyncio.sleep(0.01)
    return found


def test_spans_arrive_below_their_caller() -> None:
    async def scenario(receiver: Receiver) -> None:
        config = FrontendConfig(port=0, otlp_endpoint=f"{receiver.url}/v1/traces")
        async with Stage(config) as stage:
            returned, forwarded = await traced(stage, GIVEN)
            assert re.fullmatch(f"00-{TRACE}-[0-9a-f]{{16}}-01", returned)
            assert forwarded == returned != GIVEN
            found = await spans(receiver, TRACE)
            root = found["text_completion tiny"]
            assert root.parent_id == CALLER
            assert root.span_id == returned[36:52]
            assert root.attributes["gen_ai.usage.input_tokens"] == 7
            assert found.keys() == {"text_completion tiny", "receive", "tokenize"}
            assert {found[name].parent_id for name in ("receive", "tokenize")} == {root.span_id}
            assert abs(root.end_ns - time.time_ns()) < 60e9
            new, _ = await traced(stage, None)
            assert (await spans(receiver, new[3:35]))["text_completion tiny"].parent_id == ""
            assert receiver.services == {"dynamo-llm"}

    with Receiver() as receiver:
        asyncio.run(scenario(receiver))


def test_what_the_caller_does_not_sample_is_not_sent_and_streams_have_the_header_too() -> None:
    async def scenario(receiver: Receiver) -> None:
        config = FrontendConfig(port=0, otlp_endpoint=f"{receiver.url}/v1/traces")
        async with Stage(config) as stage:
            returned, _ = await traced(stage, f"00-{TRACE}-{CALLER}-00")
            assert returned.startswith(f"00-{TRACE}-")
            assert returned.endswith("-00")
            submit, client = await stage.stream()
            trace_id = client.head.partition("traceparent: 00-")[2][:32]
            stage.processor.send(chunks(submit, b"data: x\n\n"))
            stage.processor.send(finish(submit))
            assert (await spans(receiver, trace_id)).keys() == {"text_completion "}
            assert receiver.trace(TRACE) == {}

    with Receiver() as receiver:
        asyncio.run(scenario(receiver))


def test_without_tracing_a_callers_header_is_passed_on() -> None:
    async def scenario() -> None:
        async with Stage() as stage:
            assert await traced(stage, GIVEN) == (GIVEN, GIVEN)
            assert await traced(stage, None) == ("", "")

    asyncio.run(scenario())


def test_a_receiver_that_fails_holds_up_nothing_and_is_told_of_once() -> None:
    async def outcomes(stage: Stage) -> str:
        return "".join(
            line
            for line in (await stage.get("/metrics"))[2].splitlines()
            if "traces_total{" in line
        )

    async def scenario(receiver: Receiver) -> None:
        config = FrontendConfig(port=0, otlp_endpoint=f"{receiver.url}/v1/traces")
        async with Stage(config) as stage:
            receiver.status = 400
            for failed in (1, 2):
                await traced(stage, None)
                while f'outcome="failed"}} {failed}.0' not in await outcomes(stage):
                    await asyncio.sleep(0.01)
            receiver.status = 200
            returned, _ = await traced(stage, None)
            await spans(receiver, returned[3:35])
            while 'outcome="exported"} 1.0' not in await outcomes(stage):
                await asyncio.sleep(0.01)
            log, stage.log = stage.log, ""
        assert log.count("traces do not reach") == log.count(" again") == 1
        assert len(log.splitlines()) == 2

    with Receiver() as receiver:
        asyncio.run(scenario(receiver))


def test_what_nobody_takes_does_not_keep_it_from_ending() -> None:
    async def scenario() -> None:
        config = FrontendConfig(port=0, otlp_endpoint="http://127.0.0.1:9/v1/traces")
        stage = Stage(config)
        async with stage:
            await traced(stage, None)
            while "traces do not reach" not in stage.log:
                await asyncio.sleep(0.01)
            stage.log = ""  # it is logged once
            await traced(stage, None)
            began = time.monotonic()
        assert time.monotonic() - began < 4

    asyncio.run(scenario())
