"""Where heads begin and bodies end on a connection that is kept, and the time that heads have."""

from __future__ import annotations

import asyncio

import pytest

from dynamo_cli.config import FrontendConfig
from dynamo_cli.frontend.http.server import MAX_HEAD_BYTES
from dynamo_cli.messages.request import Submit
from tests.frontend.stage import Stage, answer, patiently

HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
WAITS = HEAD + b"Expect: 100-continue\r\n"
GET = b"GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n"
SHORT = FrontendConfig(port=0, head_timeout_s=0.2)


async def read_by_now(stage: Stage) -> None:
    """The frontend has read what was written before: it has answered what was asked later."""
    assert (await stage.get("/version"))[0] == 200


async def heads_are_late(stage: Stage) -> None:
    """A head that began later than all others has been given up."""
    reader, _ = await stage.raw(b"GET /version")
    assert b" 408 " in (await patiently(reader.read())).partition(b"\r\n")[0]


@pytest.mark.parametrize(
    ("head", "pieces"),
    [
        (b"Content-Length: 2\r\n\r\n", [b"{}"]),
        (b"Content-Length: 2\r\n\r\n", [b"{", b"}"]),
        (b"Content-Length: 2\r\n\r\n", [b"{", b"}\r\n", b"\r\n"]),
        (b"Transfer-Encoding: chunked\r\n\r\n", [b"2\r\n{}\r\n0\r\n\r\n"]),
        (b"Transfer-Encoding: chunked\r\n\r\n", [b"2\r\n{}", b"\r\n0\r\n", b"\r\n"]),
    ],
)
def test_an_idle_connection_is_told_nothing_however_the_body_arrived(
    head: bytes, pieces: list[bytes]
) -> None:
    async def scenario() -> None:
        async with Stage(SHORT) as stage:
            reader, writer = await stage.raw(WAITS + head)
            assert b" 100 " in await patiently(reader.readuntil(b"\r\n\r\n"))
            for piece in pieces:
                writer.write(piece)
                await read_by_now(stage)
            stage.processor.send(answer(await stage.processor.take(Submit)))
            assert b" 200 " in await patiently(reader.readuntil(b"}"))
            await heads_are_late(stage)
            writer.write(GET)
            assert b" 200 " in await patiently(reader.readuntil(b"}"))
            page = (await stage.get("/metrics"))[2]
            assert 'dynamo_llm_errors_total{kind="request_timeout"} 1.0' in page

    asyncio.run(scenario())


def test_a_body_that_arrives_after_the_answer_is_no_head() -> None:
    async def scenario() -> None:
        async with Stage(SHORT) as stage:
            reader, writer = await stage.raw(
                b"POST /version HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n"
            )
            assert b" 405 " in await patiently(reader.readuntil(b"}}"))
            for piece in (b"{", b"}"):
                writer.write(piece)
                await read_by_now(stage)
            await heads_are_late(stage)
            writer.write(GET)
            assert b" 200 " in await patiently(reader.readuntil(b"}"))

    asyncio.run(scenario())


def test_a_head_behind_a_body_is_given_up_too() -> None:
    async def scenario() -> None:
        async with Stage(SHORT) as stage:
            reader, writer = await stage.raw(WAITS + b"Content-Length: 2\r\n\r\n")
            assert b" 100 " in await patiently(reader.readuntil(b"\r\n\r\n"))
            writer.write(b"{}GET /version")
            stage.processor.send(answer(await stage.processor.take(Submit)))
            assert b" 200 " in await patiently(reader.readuntil(b"}"))
            writer.write(b" HTTP/1.1\r\n")
            assert b" 408 " in (await patiently(reader.read())).partition(b"\r\n")[0]

    asyncio.run(scenario())


def test_a_connection_on_which_a_head_arrives_is_not_idle() -> None:
    async def scenario() -> None:
        config = FrontendConfig(port=0, head_timeout_s=1.0, keepalive_s=0.2)
        async with Stage(config) as stage:
            reader, writer = await stage.raw(GET)
            assert b" 200 " in await patiently(reader.readuntil(b"}"))
            writer.write(b"GET /version")
            assert b" 408 " in (await patiently(reader.read())).partition(b"\r\n")[0]
            reader, _ = await stage.raw(GET)
            assert b" 200 " in await patiently(reader.readuntil(b"}"))
            assert await patiently(reader.read()) == b"", "an idle one is closed without a word"

    asyncio.run(scenario())


def test_a_head_is_too_large_also_if_it_began_during_an_answer() -> None:
    async def scenario() -> None:
        async with Stage() as stage:
            reader, writer = await stage.raw(HEAD + b"Content-Length: 2\r\n\r\n{}")
            submit = await stage.processor.take(Submit)
            writer.write(b"GET /version HTTP/1.1\r\nHost: localhost\r\n")
            for number in range(6):
                writer.write(b"X-%d: %b\r\n" % (number, b"x" * (MAX_HEAD_BYTES // 5)))
                await writer.drain()
                await read_by_now(stage)
            stage.processor.send(answer(submit))
            assert b" 200 " in await patiently(reader.readuntil(b"}"))
            await read_by_now(stage)  # so that it waits for the next request
            writer.write(b"Connection: close\r\n")
            assert b" 431 " in (await patiently(reader.read())).partition(b"\r\n")[0]

    asyncio.run(scenario())
