"""The access log: one line for each answer, whatever gave it."""

from __future__ import annotations

import asyncio
import json
import select
import socket
from typing import Any

import msgspec
import pytest
from aiohttp import web
from yarl import URL

from dynamo_cli.config import FrontendConfig
from dynamo_cli.frontend.after.access import (
    MAX_PATH,
    MAX_PENDING_BYTES,
    MAX_PROMPT,
    AccessLog,
    fields,
    prompt_of,
)
from dynamo_cli.frontend.http.server import HttpServer
from dynamo_cli.messages.request import Move, MoveReason, Submit, Timeline, Usage
from dynamo_cli.supervisor.logs import LogLines
from dynamo_cli.watch.meter import Meter
from dynamo_cli.watch.timelines import RequestRecord
from tests.frontend.stage import Stage, answer, chunks, finish, patiently

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
    """The access lines in a log, but for those of the questions with which `Stage` begins: a server
    that is not ready yet answers them with an error."""
    lines = [json.loads(line.text) for line in LogLines().feed(log.encode()) if line.access]
    return [line for line in lines if line["endpoint"] != "/health"]


async def lines_of(stage: Stage, count: int) -> str:
    """Take the log once it has so many access lines."""
    while len(told(stage.log)) < count:
        await asyncio.sleep(0.005)
    log, stage.log = stage.log, ""
    return log


def test_a_line_says_what_was_asked_and_what_came_of_it() -> None:
    assert fields(RECORD, "POST") == {
        "id": "a",
        "method": "POST",
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
    line = fields(refused, "POST")
    assert (line["worker"], line["ttft_ms"], line["error"]) == (None, None, "NotFound")
    assert line["model"] == "'a\\x9bm\\n'", "a terminal must not obey it"
    remote = msgspec.structs.replace(RECORD, timeline=Timeline(prefill_worker=2))
    assert fields(remote, "POST")["prefill_worker"] == 2


def test_a_line_has_the_moves_of_a_request_that_moved_and_only_then() -> None:
    assert "moved" not in fields(RECORD, "POST")
    move = Move("worker", 0, 1, MoveReason.DIED, 12, 20 * MS, 55 * MS)
    moved = msgspec.structs.replace(RECORD, moves=(move,))
    assert fields(moved, "POST")["moved"] == [
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
            log = await lines_of(stage, 3)
        assert "zebra" not in log
        return log

    whole, stream, bad = told(asyncio.run(scenario()))
    assert (whole["id"], whole["status"], whole["prompt_tokens"]) == ("whole", 200, 7)
    assert (stream["output_tokens"], stream["ttft_ms"] > 0) == (2, True)
    assert (bad["id"], bad["status"], bad["error"]) == ("bad", 400, "invalid_request_error")


def test_every_other_answer_has_one_line_too_whatever_gave_it() -> None:
    asks: tuple[tuple[str, str, dict[str, str]], ...] = (
        ("GET", "/version", {}),
        ("HEAD", "/version", {}),
        ("POST", "/v1/complete", {}),
        ("DELETE", "/v1/models", {}),
        ("GET", "/v1/models", {"Origin": "http://elsewhere.example"}),
        ("GET", "/%1b[31m" + "x" * MAX_PATH, {}),
    )

    async def scenario() -> tuple[str, bytes]:
        async with Stage(FrontendConfig(port=0, access_log=True)) as stage:
            for number, (method, path, more) in enumerate(asks):
                url = URL(path, encoded=True)
                await stage.ask(method, url, headers={"X-Request-ID": str(number), **more})
            reader, _ = await stage.raw(b"this is no HTTP\r\n\r\n")
            invalid = await patiently(reader.read())
            reader, writer = await stage.raw(
                b"GET /dynamo/stream HTTP/1.0\r\nHost: localhost\r\n\r\n"
            )
            await patiently(reader.readuntil(b"event: snapshot"))
            writer.close()
            return await lines_of(stage, len(asks) + 2), invalid

    log, invalid = asyncio.run(scenario())
    *lines, no_http, stream = told(log)
    assert [(line["id"], line["method"], line["status"]) for line in lines] == [
        ("0", "GET", 200),
        ("1", "HEAD", 200),
        ("2", "POST", 404),
        ("3", "DELETE", 405),
        ("4", "GET", 403),
        ("5", "GET", 404),
    ]
    assert lines[0].keys() == {"id", "method", "endpoint", "status", "total_ms"}
    assert (lines[2]["endpoint"], lines[2]["error"]) == ("/v1/complete", "not_found")
    assert lines[5]["endpoint"].startswith("'/\\x1b"), "a terminal must not obey it"
    assert len(lines[5]["endpoint"]) < MAX_PATH + 8
    assert (no_http["id"], no_http["status"]) == (id_in(invalid), 400)
    assert (stream["endpoint"], stream["status"]) == ("/dynamo/stream", 499)


def test_what_monitors_read_again_and_again_has_a_line_only_if_it_fails() -> None:
    async def scenario() -> str:
        async with Stage(FrontendConfig(port=0, access_log=True)) as stage:
            for path in ("/live", "/metrics", "/dynamo/snapshot"):
                assert (await stage.ask("GET", path))[0] == 200
                await stage.ask("POST", path)
            await stage.ask("GET", "/dynamo/nothing")
            return await lines_of(stage, 4)

    lines = told(asyncio.run(scenario()))
    assert [line["status"] for line in lines] == [405, 405, 405, 404]


def test_the_line_of_an_answer_that_was_cut_off_tells_how_many_tokens_had_come() -> None:
    async def scenario() -> str:
        async with Stage(FrontendConfig(port=0, access_log=True)) as stage:
            submit, client = await stage.stream()
            stage.processor.send(chunks(submit, b"data: zebra\n\n", tokens=5))
            await client.chunk()
            client.leave()
            return await lines_of(stage, 1)

    (line,) = told(asyncio.run(scenario()))
    assert (line["status"], line["output_tokens"], line["finish_reason"]) == (499, 5, "")


def test_a_connection_too_many_has_a_line_with_the_id_that_its_client_is_told() -> None:
    async def scenario() -> tuple[bytes, str]:
        async with Stage(FrontendConfig(port=0, access_log=True, max_connections=1)) as stage:
            reader, _ = await stage.raw(b"")  # the session of the stage has the only one
            return await patiently(reader.read()), await lines_of(stage, 1)

    answer_, log = asyncio.run(scenario())
    (line,) = told(log)
    assert line == {
        "id": id_in(answer_),
        "method": None,
        "endpoint": None,
        "status": 503,
        "error": "overloaded",
    }


def id_in(whole_answer: bytes) -> str:
    """The request id in the head of an answer."""
    return whole_answer.lower().partition(b"x-request-id: ")[2].partition(b"\r\n")[0].decode()


def test_prompts_are_logged_only_when_that_was_asked_for() -> None:
    async def scenario() -> str:
        stage = Stage(FrontendConfig(port=0, access_log=True, log_prompts=True))
        async with stage:
            asked = asyncio.create_task(stage.post(data=b'{"model": "tiny", "prompt": "zebra"}'))
            stage.processor.send(answer(await stage.processor.take(Submit)))
            await asked
            return await lines_of(stage, 1)

    (line,) = told(asyncio.run(scenario()))
    assert line["prompt"] == '{"prompt":"zebra"}'
    long = prompt_of({"messages": [{"content": "x" * 2 * MAX_PROMPT}], "temperature": 1})
    assert len(fields(RECORD, "POST", prompt=long)["prompt"]) == MAX_PROMPT


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


def test_a_client_that_leaves_before_its_answer_begins_is_no_failure_of_the_server(
    caplog: pytest.LogCaptureFixture,
) -> None:
    refused: list[str] = []

    async def scenario() -> None:
        async def handle(http: web.BaseRequest) -> web.Response:
            raise ConnectionResetError("the client left before the first byte")

        server = HttpServer(handle, FrontendConfig(), lambda error, _: refused.append(error.kind))
        listener = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0)
        port = listener.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert await patiently(reader.read()) == b""
        writer.close()
        listener.close()
        await listener.wait_closed()

    asyncio.run(scenario())
    assert (refused, caplog.records) == ([], [])
