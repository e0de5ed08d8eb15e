"""Streams: a write per message, clients that leave, slow readers, and streams that break off."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import time
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock, Mock, patch

import pytest

from dynamo_cli.config import FrontendConfig
from dynamo_cli.frontend.call import Call
from dynamo_cli.frontend.http.stream import EventStreamWriter
from dynamo_cli.frontend.model_requests import ModelRequests
from dynamo_cli.messages.request import (
    Abort,
    Chunk,
    Chunks,
    Finish,
    Head,
    Submit,
    SubmitProbe,
    Usage,
)
from dynamo_cli.watch.meter import Meter

from .stage import (
    PROCESSOR,
    SSE,
    UNMOVED,
    Stage,
    answer,
    chunks,
    finish,
    last_chunk,
    patiently,
)


def test_a_stream_is_written_as_it_comes() -> None:
    async def scenario() -> None:
        async with Stage() as stage:
            submit, client = await stage.stream()
            for line in (
                "content-type: text/event-stream",
                "cache-control: no-cache",
                "x-accel-buffering: no",
                f"x-request-id: {submit.api_id}",
                "transfer-encoding: chunked",
            ):
                assert f"\r\n{line}\r\n" in client.head
            for number in range(5):
                data = b"data: %d\n\n" % number
                stage.processor.send(chunks(submit, data))
                assert await client.chunk() == data  # before more is sent
            stage.processor.send(finish(submit))
            assert await client.chunk() == b""

    asyncio.run(scenario())


def test_bytes_that_come_with_the_head_are_not_lost_or_reordered() -> None:
    async def scenario() -> None:
        async with Stage() as stage:
            asked = asyncio.create_task(stage.post())
            submit = await stage.processor.take(Submit)
            stage.processor.send(Head(submit.request_id, 200, SSE))
            for data in (b"a", b"", b"b", b"c"):
                stage.processor.send(chunks(submit, data))
            stage.processor.send(finish(submit))
            assert (await asked)[::2] == (200, "abc")

    asyncio.run(scenario())


def test_one_message_feeds_many_streams_and_a_connection_is_used_again() -> None:
    async def scenario() -> None:
        async with Stage() as stage:
            asked = [asyncio.create_task(stage.post()) for _ in range(8)]
            submits = [await stage.processor.take(Submit) for _ in asked]
            for submit in submits:
                stage.processor.send(Head(submit.request_id, 200, SSE))
            batch = [Chunk(s.request_id, s.api_id.encode(), 1) for s in submits]
            stage.processor.send(Chunks(batch))
            for submit in submits:
                stage.processor.send(finish(submit))
            answers = [await one for one in asked]
            assert all(content == head["X-Request-ID"] for _, head, content in answers)
            again = asyncio.create_task(stage.post())
            stage.processor.send(answer(await stage.processor.take(Submit)))
            assert (await again)[0] == 200

    asyncio.run(scenario())


def test_a_client_of_http_1_0_gets_bare_bytes_until_the_end_of_the_connection() -> None:
    async def scenario() -> None:
        async with Stage() as stage:
            reader, _writer = await stage.raw(
                b"POST /v1/completions HTTP/1.0\r\nContent-Length: 2\r\n\r\n{}"
            )
            submit = await stage.processor.take(Submit)
            stage.processor.send(Head(submit.request_id, 200, SSE))
            stage.processor.send(chunks(submit, b"data: 1\n\n"))
            stage.processor.send(finish(submit))
            head, _, body = (await patiently(reader.read())).partition(b"\r\n\r\n")
            assert b"chunked" not in head
            assert body == b"data: 1\n\n"

    asyncio.run(scenario())


def test_a_client_that_leaves_a_stream_aborts_it_at_once() -> None:
    async def scenario() -> None:
        async with Stage() as stage:
            submit, client = await stage.stream()
            stage.processor.send(chunks(submit, b"data: 1\n\n"))
            await client.chunk()
            left = time.monotonic()
            client.leave()
            assert await stage.processor.take(Abort) == Abort(submit.request_id, "client_left")
            assert time.monotonic() - left < 1
            stage.processor.send(chunks(submit, b"late"))
            stage.processor.send(finish(submit))
            assert (await stage.get("/health"))[0] == 200

    asyncio.run(scenario())


def test_a_processor_that_dies_ends_its_streams_with_an_error_event() -> None:
    async def scenario() -> None:
        async with Stage(UNMOVED) as stage:
            submit, client = await stage.stream()
            stage.processor.send(chunks(submit, b"data: last words\n\n"))
            stage.processor.die("SIGSEGV")
            assert await client.chunk() == b"data: last words\n\n"
            event, done, rest = (await client.chunk()).split(b"\n\n")
            error = json.loads(event.removeprefix(b"data: "))["error"]
            assert (error["code"], done, rest) == ("worker_lost", b"data: [DONE]", b"")
            assert "SIGSEGV" in error["message"]
            assert await client.chunk() == b""
            page = (await stage.get("/metrics"))[2]
            assert 'dynamo_llm_requests_total{endpoint="/v1/completions",status="503"} 1.0' in page
            assert 'dynamo_llm_errors_total{kind="worker_lost"} 1.0' in page

    asyncio.run(scenario())


def test_a_slow_reader_is_cut_and_others_never_wait_for_it() -> None:
    async def scenario() -> None:
        async with Stage(FrontendConfig(port=0, max_pending_bytes=200_000)) as stage:
            fast, client = await stage.stream()
            slow = _deaf_client(stage.port)
            submit = await stage.processor.take(Submit)
            stage.processor.send(Head(submit.request_id, 200, SSE))
            block, gaps = b"x" * 65_536, []
            for _ in range(400):  # far more than the kernel keeps for a connection
                sent = time.monotonic()
                both = [Chunk(submit.request_id, block, 1), Chunk(fast.request_id, b"y", 1)]
                stage.processor.send(Chunks(both))
                assert await client.chunk() == b"y"
                gaps.append(time.monotonic() - sent)
                if not stage.processor.inbox.empty():
                    break
            abort = await stage.processor.take(Abort)
            assert abort == Abort(submit.request_id, "slow_reader")
            assert max(gaps) < 1
            assert not _read_to_the_end(slow).endswith(b"0\r\n\r\n"), "it must not look complete"
            stage.processor.send(finish(fast))
            assert await client.chunk() == b""
            page = (await stage.get("/metrics"))[2]
            assert 'dynamo_llm_aborts_total{reason="slow_reader"} 1.0' in page
            assert 'dynamo_llm_requests_total{endpoint="/v1/completions",status="499"} 1.0' in page

    asyncio.run(scenario())


def test_a_chunk_larger_than_the_bound_passes_when_nothing_else_waits() -> None:
    async def scenario() -> None:
        async with Stage(FrontendConfig(port=0, max_pending_bytes=1000)) as stage:
            asked = asyncio.create_task(stage.post())
            submit = await stage.processor.take(Submit)
            stage.processor.send(Head(submit.request_id, 200, SSE))
            stage.processor.send(chunks(submit, b"x" * 5_000_000))
            stage.processor.send(finish(submit))
            assert len((await asked)[2]) == 5_000_000

    asyncio.run(scenario())


def test_a_reader_at_full_speed_gets_large_events_whatever_follows_them() -> None:
    async def scenario() -> None:
        async with Stage() as stage:
            submit, client = await stage.stream()
            sizes = [20_000_000, 1, 3_000_000, 3_000_000, 3_000_000, 1, 1]
            many = [Chunk(submit.request_id, b"x" * size, 1) for size in sizes]
            stage.processor.send(Chunks(many))  # they come at once
            assert [len(await client.chunk()) for _ in sizes] == sizes
            stage.processor.send(finish(submit))
            assert await client.chunk() == b""

    asyncio.run(scenario())


def test_a_reader_that_takes_nothing_of_a_large_event_is_cut_in_time() -> None:
    async def scenario() -> None:
        async with Stage() as stage:
            fast, client = await stage.stream()
            slow = _deaf_client(stage.port)
            submit = await stage.processor.take(Submit)
            stage.processor.send(Head(submit.request_id, 200, SSE))
            stage.processor.send(chunks(submit, b"x" * 20_000_000))
            while stage.processor.inbox.empty():  # next to nothing is added
                both = [Chunk(submit.request_id, b"x", 1), Chunk(fast.request_id, b"y", 1)]
                stage.processor.send(Chunks(both))
                assert await client.chunk() == b"y"
            abort = await stage.processor.take(Abort)
            assert abort == Abort(submit.request_id, "slow_reader")
            assert not _read_to_the_end(slow).endswith(b"0\r\n\r\n")
            stage.processor.send(finish(fast))
            assert await client.chunk() == b""

    asyncio.run(scenario())


def test_who_leaves_with_the_last_event_has_the_whole_answer() -> None:
    """OpenAI's client closes the connection when it has read ``[DONE]``."""
    many = 20

    async def scenario() -> None:
        async with Stage() as stage:
            for _ in range(many):
                submit, client = await stage.stream()
                stage.processor.send(last_chunk(submit, b"data: [DONE]\n\n"))
                assert await client.chunk() == b"data: [DONE]\n\n"
                client.leave()
            ended = {"200": 0.0, "499": 0.0}
            while sum(ended.values()) < many:
                page = (await stage.get("/metrics"))[2]
                for status in ended:
                    found = re.search(rf'requests_total{{.*status="{status}"}} (.+)', page)
                    ended[status] = float(found[1]) if found else 0.0
            assert ended == {"200": many, "499": 0}
            assert "aborts_total{" not in page
            assert f"output_tokens_total {2 * many}.0" in page
            assert stage.processor.inbox.empty(), "nothing is aborted"

    asyncio.run(scenario())


@pytest.mark.parametrize("error", ["", "engine_dead"])
def test_a_client_that_leaves_in_the_moment_of_the_end_has_the_whole_answer(error: str) -> None:
    """The handler is cancelled in the same iteration of the loop in which the end has come."""
    closed = []
    models: Any = object.__new__(ModelRequests)
    models._config, models._meter = FrontendConfig(), Meter()
    models._exchange = SimpleNamespace(close=lambda *words: closed.append(words))
    visit: Any = SimpleNamespace(http=None, headers={}, status=0, outcome=None)
    end = Finish("a", Usage(1, 0, 2), error)

    async def scenario() -> None:
        call = Call(SubmitProbe("a", "a", 0), PROCESSOR, 0)
        handler = asyncio.create_task(models._stream(visit, call, Head("a", 200, SSE)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        call.finish.set_result(end)
        handler.cancel()
        with pytest.raises(asyncio.CancelledError):
            await handler
        assert closed == [(call,)], "and not with a reason to abort it"

    with patch.object(EventStreamWriter, "start", AsyncMock(return_value=Mock())):
        asyncio.run(scenario())
    assert (visit.status, visit.outcome) == (200, end)


def test_failures_that_the_processor_names_are_counted() -> None:
    async def scenario() -> None:
        async with Stage() as stage:
            submit, client = await stage.stream()
            stage.processor.send(Finish(submit.request_id, Usage(), "engine_dead"))
            assert await client.chunk() == b""
            page = (await stage.get("/metrics"))[2]
            assert 'dynamo_llm_errors_total{kind="engine_dead"} 1.0' in page

    asyncio.run(scenario())


def test_usage_of_whole_answers_and_streams_is_counted() -> None:
    async def scenario() -> None:
        async with Stage() as stage:
            asked = asyncio.create_task(stage.post())
            stage.processor.send(answer(await stage.processor.take(Submit)))
            await asked
            submit, client = await stage.stream()
            for _ in range(3):
                stage.processor.send(chunks(submit, b"data: x\n\n"))
                await client.chunk()
            stage.processor.send(finish(submit))
            assert await client.chunk() == b""
            page = (await stage.get("/metrics"))[2].splitlines()
            for line in (
                'dynamo_llm_requests_total{endpoint="/v1/completions",status="200"} 2.0',
                "dynamo_llm_prompt_tokens_total 17.0",
                "dynamo_llm_cached_prompt_tokens_total 12.0",
                "dynamo_llm_output_tokens_total 5.0",
                "dynamo_llm_ttft_seconds_count 1.0",
                "dynamo_llm_itl_seconds_count 2.0",
                "dynamo_llm_e2e_seconds_count 2.0",
                "dynamo_llm_requests_in_flight 0.0",
            ):
                assert line in page, line
            traffic = (await stage.get("/dynamo/snapshot"))[2]["traffic"]
            assert traffic["requests"] == 2
            assert traffic["hit_ratio"] == 12 / 17
            assert traffic["output_tokens_per_s"] == 0.6
            assert 0 < traffic["ttft_p50_s"] < 5

    asyncio.run(scenario())


def _deaf_client(port: int) -> socket.socket:
    """A client that sends a request and does not read the answer."""
    connection = socket.create_connection(("127.0.0.1", port))
    connection.sendall(
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}"
    )
    return connection


def _read_to_the_end(connection: socket.socket) -> bytes:
    """The last bytes that a connection receives."""
    received = b""
    with connection:
        connection.settimeout(10)
        try:
            while data := connection.recv(1 << 20):
                received = (received + data)[-100:]
        except ConnectionResetError:
            pass  # which is an end, too
    return received


def test_a_response_whose_processor_dies_ends_with_an_error_event() -> None:
    """The event has the shape of the Responses API, as events of a processor have."""

    async def scenario() -> None:
        async with Stage(UNMOVED) as stage:
            _, client = await stage.stream("/v1/responses")
            stage.processor.die()
            name, data, *_ = (await client.chunk()).decode().split("\n")
            assert name == "event: error"
            told = json.loads(data.removeprefix("data: "))
            assert (told["type"], told["code"]) == ("error", "worker_lost")
            assert await client.chunk() == b""

    asyncio.run(scenario())
