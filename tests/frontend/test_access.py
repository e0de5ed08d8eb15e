"""The access log: one line for each finished request."""

from __future__ import annotations

import asyncio
import json
import select
import socket
from typing import Any

import msgspec

from dynamo_cli.config import FrontendConfig
from dynamo_cli.frontend.after.access import (
    MAX_PENDING_BYTES,
    MAX_PROMPT,
    AccessLog,
    fields,
    prompt_of,
)
from dynamo_cli.messages.request import Move, MoveReason, Submit, Timeline, Usage
from dynamo_cli.supervisor.logs import LogLines
from dynamo_cli.watch.meter import Meter
from dynamo_cli.watch.timelines import RequestRecord
from tests.frontend.stage import Stage, answer, chunks, finish

MS = 1_000_000
RECORD = RequestRecord(
    request_id="a",
    endpoint="/v1/completions",
    model="tiny",
    status=200,
    arrival_ns=10 * MS,
    ended_ns=60 * MS,
    finish_reason="stop",
    worker=1,
    processor=0,
    usage=Usage(10, 4, 3),
    first_byte_ns=22 * MS,
)


def told(log: str) -> list[dict[str, Any]]:
    """The access lines in a log."""
    return [json.loads(line.text) for line in LogLines().feed(log.encode()) if line.access]


def test_a_line_says_what_was_asked_and_what_came_of_it() -> None:
    assert fields(RECORD) == {
        "id": "a",
        "endpoint": "/v1/completions",
        "status": 200,
        "model": "tiny",
        "worker": 1,
        "prompt_tokens": 10,
        "cached_tokens": 4,
        "output_tokens": 3,
        "ttft_ms": 12.0,
        "total_ms": 50.0,
        "finish_reason": "stop",
    }
    refused = RequestRecord("b", "/v1/completions", "a\x9bm\n", 404, 0, MS, error="NotFound")
    line = fields(refused)
    assert (line["worker"], line["ttft_ms"], line["error"]) == (None, None, "NotFound")
    assert line["model"] == "'a\\x9bm\\n'", "a terminal must not obey it"
    remote = msgspec.structs.replace(RECORD, timeline=Timeline(prefill_worker=2))
    assert fields(remote)["prefill_worker"] == 2


def test_a_line_has_the_moves_of_a_request_that_moved_and_only_then() -> None:
    assert "moved" not in fields(RECORD)
    move = Move("worker", 0, 1, MoveReason.DIED, 12, 20 * MS, 55 * MS)
    assert fields(msgspec.structs.replace(RECORD, moves=(move,)))["moved"] == [
        {
            "from": "worker 0",
            "to": "worker 1",
            "reason": "died",
            "output_tokens": 12,
            "gap_ms": 35.0,
        }
    ]


def test_every_request_for_the_model_gets_a_line_without_its_text() -> None:
    async def scenario() -> str:
        stage = Stage(FrontendConfig(port=0, access_log=True))
        async with stage:
            body = b'{"model": "tiny", "prompt": "zebra"}'
            asked = asyncio.create_task(stage.post(data=body, headers={"X-Request-ID": "whole"}))
            stage.processor.send(answer(await stage.processor.take(Submit)))
            await asked
            submit, client = await stage.stream()
            stage.processor.send(chunks(submit, b"data: zebra\n\n"))
            stage.processor.send(finish(submit))
            while await client.chunk():
                pass
            await stage.post(data=b"[zebra]", headers={"X-Request-ID": "bad"})
            await stage.get("/health")
            while len(told(stage.log)) < 3:
                await asyncio.sleep(0.005)
            log, stage.log = stage.log, ""
        assert "zebra" not in log
        return log

    whole, stream, bad = told(asyncio.run(scenario()))
    assert (whole["id"], whole["status"], whole["prompt_tokens"]) == ("whole", 200, 7)
    assert (stream["output_tokens"], stream["ttft_ms"] > 0) == (2, True)
    assert (bad["id"], bad["status"], bad["error"]) == ("bad", 400, "invalid_request_error")


def test_prompts_are_logged_only_when_that_was_asked_for() -> None:
    async def scenario() -> str:
        stage = Stage(FrontendConfig(port=0, access_log=True, log_prompts=True))
        async with stage:
            asked = asyncio.create_task(stage.post(data=b'{"model": "tiny", "prompt": "zebra"}'))
            stage.processor.send(answer(await stage.processor.take(Submit)))
            await asked
            while not told(stage.log):
                await asyncio.sleep(0.005)
            log, stage.log = stage.log, ""
        return log

    (line,) = told(asyncio.run(scenario()))
    assert line["prompt"] == '{"prompt":"zebra"}'
    long = prompt_of({"messages": [{"content": "x" * 2 * MAX_PROMPT}], "temperature": 1})
    assert len(fields(RECORD, prompt=long)["prompt"]) == MAX_PROMPT


def test_a_log_that_is_not_read_holds_up_nothing_and_loss_is_counted() -> None:
    async def scenario() -> None:
        ours, theirs = socket.socketpair()
        meter = Meter()
        log = AccessLog(ours, meter)
        line = {"id": "x" * 1000}
        count = 3 * MAX_PENDING_BYTES // 1000
        for _ in range(count):
            log.add(line)
        while not select.select([theirs], [], [], 0)[0]:
            await asyncio.sleep(0.005)
        assert 0 < meter.lost_access_lines < count
        lines = LogLines()
        theirs.setblocking(False)
        got = 0
        while got + meter.lost_access_lines < count:
            try:
                got += sum(one.access for one in lines.feed(theirs.recv(1 << 16)))
            except BlockingIOError:
                await asyncio.sleep(0.01)
        assert got + meter.lost_access_lines == count
        log.close()
        theirs.close()

    asyncio.run(scenario())
