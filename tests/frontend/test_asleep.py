"""A server whose engines sleep does not report that it is healthy."""

from __future__ import annotations

import asyncio

from dynamo_cli.messages.request import Submit
from dynamo_cli.messages.telemetry import WorkerStats
from dynamo_cli.watch.state import ASLEEP
from tests.frontend.stage import WORKER, Stage, answer


def stats(*, asleep: bool) -> WorkerStats:
    return WorkerStats(0, 0, 0, 0.0, 0, 0, 0, 0, 0, 0, 0, asleep=asleep)


def test_asleep_is_not_healthy_until_somebody_wakes_it_up() -> None:
    async def scenario() -> None:
        async with Stage() as stage:
            worker = await stage.neighbour(WORKER)
            worker.send(stats(asleep=True))
            while (told := await stage.get("/health"))[0] == 200:
                await asyncio.sleep(0.005)
            status, _, health = told
            assert (status, health["status"]) == (503, "unavailable")
            assert health["reason"].startswith("asleep")
            assert health["asleep"] == ["worker 0"]
            assert "dynamo_llm_serving 0.0" in (await stage.get("/metrics"))[2]
            asked = asyncio.create_task(stage.post("/tokenize"))  # which needs no engine
            stage.processor.send(answer(await stage.processor.take(Submit)))
            assert (await asked)[0] == 200
            while ASLEEP not in stage.log:
                await asyncio.sleep(0.005)
            worker.send(stats(asleep=False))
            while (await stage.get("/health"))[0] != 200:
                await asyncio.sleep(0.005)
            assert "dynamo_llm_serving 1.0" in (await stage.get("/metrics"))[2]
            while "awake: " not in stage.log:
                await asyncio.sleep(0.005)
            stage.expected_log = stage.log

    asyncio.run(scenario())


def test_a_worker_that_dies_in_its_sleep_sleeps_no_more() -> None:
    async def scenario() -> None:
        async with Stage() as stage:
            worker = await stage.neighbour(WORKER)
            worker.send(stats(asleep=True))
            while (await stage.get("/health"))[0] == 200:
                await asyncio.sleep(0.005)
            worker.die()
            while (await stage.get("/health"))[0] != 200:
                await asyncio.sleep(0.005)
            while not stage.log:
                await asyncio.sleep(0.005)
            stage.expected_log = stage.log

    asyncio.run(scenario())
