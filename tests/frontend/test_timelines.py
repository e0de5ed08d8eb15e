"""Timelines of finished requests."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import msgspec
import pytest

from dynamo_cli.messages.request import Abort, Head, Submit, Timeline
from dynamo_cli.messages.telemetry import ProcessorStats
from tests.frontend.stage import SSE, Stage, answer, chunks, finish


async def timelines(stage: Stage, query: str = "") -> Any:
    return (await stage.get(f"/dynamo/timeline{query}"))[2]["timelines"]


async def told(stage: Stage, request_id: str) -> Any:
    """The timeline of a request; waits until it is there."""
    while not (found := await timelines(stage, f"?request_id={request_id}")):
        await asyncio.sleep(0.005)
    return found[0]


def test_whole_answers_and_streams_leave_a_line() -> None:
    async def scenario() -> None:
        async with Stage() as stage:
            body = b'{"model": "tiny", "prompt": "a"}'
            asked = asyncio.create_task(stage.post(data=body, headers={"X-Request-ID": "whole"}))
            submit = await stage.processor.take(Submit)
            now = time.monotonic_ns()
            timeline = Timeline(received_ns=now, queued_ns=now + 1, first_token_ns=now + 2)
            stage.processor.send(
                msgspec.structs.replace(
                    answer(submit), worker=3, finish_reason="length", timeline=timeline
                )
            )
            await asked
            whole = await told(stage, "whole")
            assert (whole["worker"], whole["finish_reason"], whole["model"]) == (
                3,
                "length",
                "tiny",
            )
            assert (whole["prompt_tokens"], whole["cached_tokens"]) == (7, 4)
            assert not whole["streamed"]
            assert list(whole["stages_ms"]) == [
                *("arrival", "received", "queued", "first_token", "ended"),
            ]
            asked = asyncio.create_task(stage.post(headers={"X-Request-ID": "stream"}))
            submit = await stage.processor.take(Submit)
            stage.processor.send(Head(submit.request_id, 200, SSE, worker=1))
            stage.processor.send(chunks(submit, b"data: x\n\n"))
            stage.processor.send(msgspec.structs.replace(finish(submit), worker=1))
            await asked
            stream = await told(stage, "stream")
            assert (stream["worker"], stream["streamed"], stream["status"]) == (1, True, 200)
            assert list(stream["stages_ms"]) == ["arrival", "first_byte", "ended"]
            assert [one["request_id"] for one in await timelines(stage)] == ["stream", "whole"]

    asyncio.run(scenario())


def test_a_running_request_is_told_with_its_state_and_its_tokens() -> None:
    async def scenario() -> None:
        async with Stage() as stage:
            submit, client = await stage.stream()
            name = f"?request_id={submit.api_id}"
            (before,) = await timelines(stage, f"{name}&state=running")
            assert (before["state"], before["worker"], before["status"]) == ("unplaced", None, 0)
            assert await timelines(stage, name) == []
            stage.processor.send(chunks(submit, b"data: x\n\n"))
            await client.chunk()
            (now,) = await timelines(stage, f"{name}&state=all")
            assert (now["state"], now["output_tokens"]) == ("decode", 1)
            assert list(now["stages_ms"]) == ["arrival", "first_byte"]
            assert now["ttft_ms"] > 0
            stage.processor.send(msgspec.structs.replace(finish(submit), worker=1))
            ended = await told(stage, submit.api_id)
            assert (ended["state"], ended["number"]) == ("done", 1)
            assert await timelines(stage, "?state=running") == []
            assert await timelines(stage, "?state=all&after=1") == []

    asyncio.run(scenario())


def test_who_leaves_is_remembered_with_the_worker_that_it_left() -> None:
    async def scenario() -> None:
        async with Stage() as stage:
            submit, client = await stage.stream()
            stage.processor.send(chunks(submit, b"data: x\n\n"))
            await client.chunk()
            client.leave()
            assert isinstance(await stage.processor.inbox.get(), Abort)
            gone = await told(stage, submit.api_id)
            assert (gone["status"], gone["error"], gone["finish_reason"]) == (
                499,
                "client_left",
                "",
            )
            assert gone["streamed"]

    asyncio.run(scenario())


def test_what_no_processor_saw_is_not_remembered() -> None:
    async def scenario() -> None:
        async with Stage() as stage:
            assert (await stage.post(data=b"no json"))[0] == 400
            assert await timelines(stage) == []

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("?limit=0", "limit must be a number from 1 to 10000"),
        ("?worker=1", "this path takes limit, request_id"),
        ("?state=gone", "state must be one of ended, running, all"),
    ],
)
def test_what_cannot_be_asked_is_said(query: str, says: str) -> None:
    async def scenario() -> None:
        async with Stage() as stage:
            status, _, content = await stage.get(f"/dynamo/timeline{query}")
            assert status == 400
            assert says in content["error"]["message"]

    asyncio.run(scenario())


def test_a_whole_answer_is_shown_as_begun_when_its_processor_says_so() -> None:
    async def scenario() -> None:
        async with Stage() as stage:
            asked = asyncio.create_task(stage.post(headers={"X-Request-ID": "whole"}))
            submit = await stage.processor.take(Submit)
            (one,) = await timelines(stage, "?state=running")
            assert one["state"] == "unplaced"
            stage.processor.send(ProcessorStats(0, 0, begun=(submit.request_id,)))
            while one["state"] != "decode":
                (one,) = await timelines(stage, "?state=running")
                await asyncio.sleep(0.005)
            stage.processor.send(answer(submit))
            await asked

    asyncio.run(asyncio.wait_for(scenario(), 60))
