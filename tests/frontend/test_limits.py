"""Connections that are slow, long, many or old, and bodies that never arrive."""

from __future__ import annotations

import asyncio
import json
import resource
from pathlib import Path

import pytest

from dynamo_cli.config import FrontendConfig
from dynamo_cli.frontend.after.access import prompt_of
from dynamo_cli.frontend.http.admission import LARGE_BODY_BYTES, model_of, skim_body
from dynamo_cli.messages.request import Head, Submit
from tests.frontend.stage import SSE, Stage, answer, chunks, finish, patiently

POST = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"


async def status_and_error(reader: asyncio.StreamReader) -> tuple[int, str, str]:
    """The status and the error of an answer that ends the connection."""
    head, _, body = (await patiently(reader.read())).partition(b"\r\n\r\n")
    error = json.loads(body)["error"]
    return int(head.split()[1]), error["code"], error["message"]


def test_a_stream_for_http_1_0_ends_with_its_connection_whatever_was_asked() -> None:
    async def scenario() -> None:
        async with Stage() as stage:
            reader, _ = await stage.raw(
                b"POST /v1/completions HTTP/1.0\r\nConnection: keep-alive\r\n"
                b"Content-Length: 2\r\n\r\n{}"
            )
            submit = await stage.processor.take(Submit)
            stage.processor.send(Head(submit.request_id, 200, SSE))
            stage.processor.send(chunks(submit, b"data: 1\n\n"))
            stage.processor.send(finish(submit))
            told = await patiently(reader.read())  # until the connection ends
            assert told.endswith(b"\r\n\r\ndata: 1\n\n")
            assert b"connection: keep-alive" not in told.lower()

    asyncio.run(scenario())


def test_long_headers_pass_and_longer_ones_are_refused_without_a_word_of_them() -> None:
    async def scenario() -> None:
        async with Stage() as stage:
            for size, path, status in (
                (60_000, b"/version", 200),
                (70_000, b"/version", 431),
                (300_000, b"/version", 431),
                (0, b"/" + b"x" * 70_000, 431),
            ):
                token = b"SECRET" + b"s" * size
                reader, _ = await stage.raw(
                    b"GET " + path + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
                    b"Authorization: Bearer " + token + b"\r\n\r\n"
                )
                told = await patiently(reader.read())
                assert int(told.split()[1]) == status, (size, told[:200])
                assert b"SECRET" not in told
            for line in (b"SECRET", b"SECRET\x01: a", b"a: SECRET\x00", b"Content-Length: SECRET"):
                reader, _ = await stage.raw(
                    b"GET / HTTP/1.1\r\nHost: localhost\r\n" + line + b"\r\n\r\n"
                )
                told = await patiently(reader.read())
                assert told.split()[1] == b"400", line
                assert b"SECRET" not in told

    asyncio.run(scenario())


def test_a_head_that_does_not_come_is_given_up() -> None:
    async def scenario() -> None:
        async with Stage(FrontendConfig(port=0, head_timeout_s=0.2)) as stage:
            reader, writer = await stage.raw(b"GET /version HTTP/1.1\r\nHost: local")
            assert (await status_and_error(reader))[:2] == (408, "request_timeout")
            # The same for the next request on a connection.
            reader, writer = await stage.raw(b"GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await patiently(reader.readuntil(b"}"))
            writer.write(b"GET /version")
            assert (await status_and_error(reader))[:2] == (408, "request_timeout")
            page = (await stage.get("/metrics"))[2]
            assert 'dynamo_llm_errors_total{kind="request_timeout"} 2.0' in page, [
                line for line in page.splitlines() if "errors" in line
            ]

    asyncio.run(scenario())


def test_a_head_that_begins_during_an_answer_is_given_up_after_it() -> None:
    async def scenario() -> None:
        async with Stage(FrontendConfig(port=0, head_timeout_s=0.2)) as stage:
            reader, writer = await stage.raw(POST + b"Content-Length: 2\r\n\r\n{}")
            submit = await stage.processor.take(Submit)
            writer.write(b"GET /version HTTP/1.1\r\n")
            await stage.get("/version")  # by now the frontend has those bytes
            stage.processor.send(answer(submit))
            assert b" 200 " in await patiently(reader.readuntil(b"}"))
            assert (await status_and_error(reader))[:2] == (408, "request_timeout")

    asyncio.run(scenario())


def test_a_body_that_does_not_come_is_given_up_and_takes_nobodys_place() -> None:
    async def scenario() -> None:
        config = FrontendConfig(port=0, max_inflight=1, body_timeout_s=2.0)
        async with Stage(config) as stage:
            slow, writer = await stage.raw(
                POST + b"Expect: 100-continue\r\nContent-Length: 9\r\n\r\n"
            )
            assert b" 100 " in await patiently(slow.readuntil(b"\r\n\r\n"))  # now the body is read
            writer.write(b"{")
            asked = asyncio.create_task(stage.post())
            stage.processor.send(answer(await stage.processor.take(Submit)))
            assert (await asked)[0] == 200
            writer.write(b" ")
            status, code, message = await status_and_error(slow)
            assert (status, code) == (408, "request_timeout")
            assert "body" in message

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"[%b]", "must be a JSON object"),
        (b'{"a": [%b]', "not valid JSON"),
        (b'{"a": nan, "b": "%b"}', "not valid JSON"),
        (b'{"a":' * 2000 + b'"%b', "not valid JSON"),
        (b'{"model": "\xff", "a": "%b"}', "not valid JSON: byte 11 is not UTF-8 (0xff)"),
        (b'{"model": "\\ud800", "a": "%b"}', "not valid JSON"),
    ],
)
def test_large_bodies_are_skimmed_and_mistakes_in_them_found(body: bytes, says: str) -> None:
    async def scenario() -> None:
        async with Stage() as stage:
            data = body.replace(b"%b", b"1" * LARGE_BODY_BYTES)
            status, _, content = await stage.post(data=data)
            assert status == 400
            assert says in content["error"]["message"]
            large = b'{"prompt": "%b", "model": "tiny"}' % (b"x" * LARGE_BODY_BYTES)
            asked = asyncio.create_task(stage.post(data=large))
            submit = await stage.processor.take(Submit)
            assert submit.body == large
            stage.processor.send(answer(submit))
            assert (await asked)[0] == 200

    asyncio.run(scenario())


def test_prompts_of_large_bodies_can_be_logged() -> None:
    large = b'{"model": "tiny", "prompt": "%b", "stop": [1]}' % (b"x" * LARGE_BODY_BYTES)
    content = skim_body(large)
    assert model_of(content) == "tiny"
    assert prompt_of(content) == '{"prompt":"%s"}' % ("x" * LARGE_BODY_BYTES)
    assert prompt_of(skim_body(b'{"prompt": "x", "stop": 1}')) == '{"prompt":"x"}'


def test_more_connections_than_may_be_are_told_so_counted_and_logged() -> None:
    async def scenario() -> None:
        stage = Stage(FrontendConfig(port=0, max_connections=3))
        async with stage:
            held = [await stage.raw(b"") for _ in range(3)]
            codes = []
            while len(codes) < 3:
                reader, writer = await stage.raw(
                    b"GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n"
                )
                told = await patiently(reader.read())
                assert int(told.split()[1]) == 503
                assert b"retry-after" in told.lower()
                codes.append(json.loads(told.partition(b"\r\n\r\n")[2])["error"]["code"])
            assert set(codes) == {"overloaded"}
            for _, writer in held:
                writer.close()
            while "overloaded: requests are refused" not in stage.log:
                await asyncio.sleep(0.01)
            stage.expected_log = stage.log
            assert stage.log.count("\n") == 1, "one line for all of them"
            assert "ulimit -Hn" in stage.log
            page = (await stage.get("/metrics"))[2]
            assert 'kind="overloaded"' in page

    asyncio.run(scenario())


def test_a_low_limit_of_open_files_is_raised() -> None:
    async def scenario() -> None:
        async with Stage() as stage:
            limits = Path(f"/proc/{stage.process.pid}/limits").read_text()
            (line,) = [line for line in limits.splitlines() if line.startswith("Max open files")]
            assert int(line.split()[3]) == min(65_535, hard)

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
    try:
        asyncio.run(scenario())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
