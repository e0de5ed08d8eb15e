"""Routing over HTTP: decisions, the live stream, metrics, request and response headers."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from dynamo_cli.config import FrontendConfig
from dynamo_cli.messages.lifecycle import Drain, Drained, Logged, LogLine
from dynamo_cli.messages.request import EngineReady, Head, Submit
from dynamo_cli.messages.routing import Candidate, Decisions, Measured, RouterStats, RoutingDecision
from dynamo_cli.messages.telemetry import ProcessorStats
from dynamo_cli.topology import ROUTER
from tests.frontend.stage import SSE, WORKER, Neighbour, Stage, answer, chunks, finish, patiently


def decision(name: str, worker: int | None = 0) -> RoutingDecision:
    candidates = [Candidate(one, 5.0 + one, 2, {"prefill": 5.0, "decode": one}) for one in (0, 1)]
    return RoutingDecision(
        name, f"api-{name}", worker, "kv", "cost", 70, 3, 2, 32, candidates, 1.0, 0.0, 9.0, 0
    )


STATS = RouterStats(
    policy="kv",
    decisions={0: 2, 1: 1},
    active_requests={0: 3, 1: 1},
    refused_sends=0,
    prefill_blocks={0: 5, 1: 0},
    decode_blocks={0: 9, 1: 2},
    waiting_requests=4,
    index_blocks={0: 40, 1: 30},
    index_entries=60,
    index_bytes=6000,
    event_blocks={"stored": 70, "unknown_parent": 1},
    event_lag_us=250.0,
    resyncs={"start": 2},
    prompt_tokens=100,
    predicted_tokens=80,
    measured_tokens=60,
    over_predicted_requests=1,
    asked_tokens=100,
    repeated_tokens=90,
    released={"expired": 1},
    silent_workers=[0],
    decision_us=[1, 2, 0, 0, 0, 0, 0, 0, 0, 1],
    decision_total_us=6000.0,
)


async def with_news(stage: Stage) -> tuple[Neighbour, Any]:
    """Link a router that reports decisions; those decisions as the API gives them."""
    router = await stage.neighbour(ROUTER)
    router.send(STATS)
    news = [decision("a"), decision("b", 1), decision("c")]
    router.send(Decisions(news, [Measured("a", 32)], 0))
    while len(shown := (await stage.get("/dynamo/decisions"))[2]["decisions"]) < 3:
        await asyncio.sleep(0.005)
    return router, shown


def test_decisions_say_why() -> None:
    async def scenario() -> None:
        async with Stage() as stage:
            assert (await stage.get("/dynamo/decisions"))[2] == {"decisions": [], "dropped": 0}
            router, (c, b, a) = await with_news(stage)
            assert (a["request_id"], a["engine_request_id"], a["worker"]) == ("api-a", "a", 0)
            assert (a["predicted_tokens"], a["measured_tokens"]) == (64, 32)
            assert (b["worker"], b["measured_tokens"]) == (1, None)
            assert c["candidates"][1] == {
                "worker": 1,
                "overlap_blocks": 2,
                "cost": 6.0,
                "terms": {"prefill": 5.0, "decode": 1},
            }

            async def names(query: str) -> list[str]:
                shown = (await stage.get(f"/dynamo/decisions?{query}"))[2]["decisions"]
                return [one["engine_request_id"] for one in shown]

            assert await names("limit=2") == ["c", "b"]
            assert await names("worker=1") == ["b"]
            assert await names("request_id=api-a") == ["a"]
            router.send(Decisions([decision("d", None)], [], 0))
            while await names("limit=1") != ["d"]:
                await asyncio.sleep(0.005)
            (lost,) = (await stage.get("/dynamo/decisions?worker=none"))[2]["decisions"]
            assert (lost["engine_request_id"], lost["worker"]) == ("d", None)
            assert await names("worker=1") == ["b"]

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/dynamo/decisions?limit=0", "limit must be a number from 1 to 10000; it is '0'"),
        ("/dynamo/decisions?limit=many", "it is 'many'"),
        ("/dynamo/decisions?worker=x", "worker must be a number"),
        ("/dynamo/decisions?worker=-1", "worker must be a number from 0"),
        (
            "/dynamo/decisions?since=1",
            "unknown query parameter 'since'; this path takes limit, worker",
        ),
        ("/dynamo/stream?interval=0.01", "interval must be a number from 0.25 to 10"),
        ("/dynamo/stream?interval=nan", "interval must be a number"),
    ],
)
def test_what_cannot_be_asked_is_said(path: str, says: str) -> None:
    async def scenario() -> None:
        async with Stage() as stage:
            status, _, content = await stage.get(path)
            assert status == 400
            assert says in content["error"]["message"]

    asyncio.run(scenario())


async def events(reader: asyncio.StreamReader, name: str) -> Any:
    """The content of the next event of this name."""
    while True:
        line = (await patiently(reader.readline())).decode()
        assert line, "the stream ended"
        if line.strip() == f"event: {name}":
            data = (await patiently(reader.readline())).decode()
            return json.loads(data.removeprefix("data: "))


def test_the_stream_tells_snapshots_and_decisions_as_they_happen() -> None:
    async def scenario() -> None:
        async with Stage() as stage:
            router, _ = await with_news(stage)
            reader, writer = await stage.raw(
                b"GET /dynamo/stream HTTP/1.1\r\nHost: localhost\r\n\r\n"
            )
            first = await events(reader, "snapshot")
            assert first["router"]["index_entries"] == 60
            assert len(await events(reader, "decisions")) == 3
            second = await events(reader, "snapshot")
            assert second["uptime_s"] > first["uptime_s"]
            router.send(Decisions([decision("d")], [Measured("d", 64)], 0))
            (new,) = await events(reader, "decisions")
            assert new["engine_request_id"] == "d"
            (measured,) = await events(reader, "measured")
            assert (measured["engine_request_id"], measured["measured_tokens"]) == ("d", 64)
            writer.close()

    asyncio.run(scenario())


def test_the_stream_tells_log_lines_once_and_newcomers_the_last_ones() -> None:
    async def scenario() -> None:
        async with Stage() as stage:
            request = b"GET /dynamo/stream HTTP/1.1\r\nHost: localhost\r\n\r\n"
            line = LogLine(1, 1700000000.5, "worker 0", "WARNING", "mind the gap")
            stage.tell(Logged([line], 0))
            reader, first = await stage.raw(request)
            (told,) = await events(reader, "logs")
            assert (told["number"], told["level"], told["text"]) == (1, "WARNING", "mind the gap")
            stage.tell(Logged([msgspec.structs.replace(line, number=2)], 0))
            assert [told["number"] for told in await events(reader, "logs")] == [2]
            late, second = await stage.raw(request)
            assert [told["number"] for told in await events(late, "logs")] == [1, 2]
            first.close()
            second.close()

    asyncio.run(scenario())


def test_log_lines_that_nobody_read_are_counted() -> None:
    async def scenario() -> None:
        async with Stage() as stage:
            stage.tell(Logged([], 0, 7))
            expected = "dynamo_llm_unwritten_log_lines_total 7.0"
            while expected not in (await stage.get("/metrics"))[2]:
                await asyncio.sleep(0.05)
            snapshot = (await stage.get("/dynamo/snapshot"))[2]
            assert snapshot["unwritten_log_lines"] == 7

    asyncio.run(scenario())


def test_watchers_do_not_hold_up_the_end() -> None:
    async def scenario() -> None:
        async with Stage() as stage:
            reader, writer = await stage.raw(
                b"GET /dynamo/stream HTTP/1.1\r\nHost: localhost\r\n\r\n"
            )
            await events(reader, "snapshot")
            stage.tell(Drain(30.0))
            assert (await stage.report(Drained)).remaining == 0
            writer.close()

    asyncio.run(scenario())


def test_metrics_of_routing() -> None:
    async def scenario() -> None:
        async with Stage() as stage:
            worker = await stage.neighbour(WORKER)
            worker.send(EngineReady(0, ["generate"], 4096, 32, 512, 8))
            stage.processor.send(ProcessorStats(7, 0))
            await with_news(stage)
            page = (await stage.get("/metrics"))[2]
            found = {
                (sample.name, *sample.labels.values()): sample.value
                for family in text_string_to_metric_families(page)
                for sample in family.samples
            }
            prefix = "dynamo_llm_router_"
            expected = {
                ("decision_seconds_bucket", "2e-05"): 3,
                ("decision_seconds_bucket", "+Inf"): 4,
                ("decision_seconds_sum",): 0.006,
                ("index_entries",): 60,
                ("index_bytes",): 6000,
                ("index_blocks", "0"): 40,
                ("active_requests", "0"): 3,
                ("prefill_blocks", "0"): 5,
                ("decode_blocks", "1"): 2,
                ("event_blocks_total", "stored"): 70,
                ("event_lag_seconds",): 0.00025,
                ("resyncs_total", "start"): 2,
                ("released_total", "expired"): 1,
                ("predicted_tokens_total",): 80,
                ("measured_tokens_total",): 60,
                ("prompt_tokens_total",): 100,
                ("over_predicted_requests_total",): 1,
                ("hit_ratio", "estimated"): 0.8,
                ("hit_ratio", "measured"): 0.6,
                ("hit_ratio", "limit"): 0.9,
                ("load_skew_ratio",): 1.5,
                ("silent_workers",): 1,
                ("waiting_requests",): 4,
            }
            for (name, *labels), value in expected.items():
                assert found[(prefix + name, *labels)] == pytest.approx(value), name
            assert found["dynamo_llm_unrouted_requests_total", "0"] == 7
            health = (await stage.get("/health"))[2]
            assert health["status"] == "ok"
            assert "(32 tokens)" in health["warnings"][0]

    asyncio.run(scenario())


def test_headers_of_an_answer_come_through() -> None:
    added = (("X-Dynamo-Worker", "1"), ("X-Dynamo-Overlap-Blocks", "3"))

    async def scenario() -> None:
        async with Stage() as stage:
            asked = asyncio.create_task(stage.post())
            submit = await stage.processor.take(Submit)
            reply = msgspec.structs.replace(answer(submit), headers=added)
            stage.processor.send(reply)
            _, head, _ = await asked
            assert (head["X-Dynamo-Worker"], head["X-Dynamo-Overlap-Blocks"]) == ("1", "3")

            asked = asyncio.create_task(stage.post())
            submit = await stage.processor.take(Submit)
            stage.processor.send(Head(submit.request_id, 200, SSE, added))
            stage.processor.send(chunks(submit, b"data: [DONE]\n\n"))
            stage.processor.send(finish(submit))
            _, head, _ = await asked
            assert (head["X-Dynamo-Worker"], head["X-Dynamo-Overlap-Blocks"]) == ("1", "3")

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("header", "value", "says"),
    [
        ("X-Priority", "high", "it is 'high'."),
        ("X-Priority", "1.5", "smaller is served earlier"),
        ("X-Priority", "9" * 10, "at most 9 digits"),
        ("X-Session-ID", "s" * 257, "at most 256 characters; it has 257."),
    ],
)
def test_headers_that_cannot_be_are_refused(header: str, value: str, says: str) -> None:
    async def scenario() -> None:
        async with Stage(FrontendConfig(port=0)) as stage:
            status, _, content = await stage.post(headers={header: value})
            assert status == 400
            assert says in content["error"]["message"]

    asyncio.run(scenario())


def test_a_priority_and_a_session_go_on_to_the_processor() -> None:
    async def scenario() -> None:
        async with Stage() as stage:
            headers = {"X-Priority": "-3", "X-Session-ID": "s1"}
            asked = asyncio.create_task(stage.post(headers=headers))
            submit = await stage.processor.take(Submit)
            assert {("x-priority", "-3"), ("x-session-id", "s1")} <= set(submit.headers)
            stage.processor.send(answer(submit))
            await asked

    asyncio.run(scenario())
