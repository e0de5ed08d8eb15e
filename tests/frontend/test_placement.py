"""`/dynamo/placement`: bounds are changed at run time and reach every decode worker."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dynamo_cli.config import FrontendConfig, PlacementRule
from dynamo_cli.frontend.admin.prefill_bounds import Placement
from dynamo_cli.messages.lifecycle import PlacementChanged
from dynamo_cli.messages.prefill import PrefillQueueStats, SetPlacement, TransferStats
from dynamo_cli.topology import ProcessId, Role
from tests.frontend.stage import WORKER, Stage

KEY = {"Authorization": "Bearer sesame"}
DISAGGREGATED = FrontendConfig(port=0, placement=PlacementRule(), api_keys=("sesame",), admin=True)


def test_new_bounds_reach_the_workers_of_now_and_of_later() -> None:
    async def scenario() -> None:
        async with Stage(DISAGGREGATED) as stage:
            worker = await stage.neighbour(WORKER)
            assert await worker.take(SetPlacement) == SetPlacement(False, 1000, None)
            assert (await stage.get("/dynamo/placement", headers=KEY))[2] == {
                "conditional": False,
                "max_local_prefill_length": 1000,
                "max_prefill_queue_size": None,
            }
            body = b'{"max_local_prefill_length": 50, "max_prefill_queue_size": 3}'
            status, _, shown = await stage.post("/dynamo/placement", data=body, headers=KEY)
            assert (status, shown["max_local_prefill_length"]) == (200, 50)
            assert await worker.take(SetPlacement) == SetPlacement(True, 50, 3)
            assert (await stage.report(PlacementChanged)).rule == PlacementRule(True, 50, 3)
            worker.die()
            reborn = await stage.neighbour(WORKER)
            assert await reborn.take(SetPlacement) == SetPlacement(True, 50, 3)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"{", "not valid JSON"),
        (b"[]", "must be a JSON object"),
        (
            b'{"max_length": 1}',
            "the bounds are max_local_prefill_length and max_prefill_queue_size",
        ),
        (b'{"max_local_prefill_length": -1}', "whole number, 0 or more; it is -1."),
        (b'{"max_local_prefill_length": null}', "whole number, 0 or more"),
        (b'{"max_prefill_queue_size": true}', "0 or more; it is true."),
        (b'{"max_prefill_queue_size": 1, "max_local_prefill_length": "9"}', "whole number"),
    ],
)
def test_what_cannot_be_a_bound_changes_nothing(body: bytes, says: str) -> None:
    async def scenario() -> None:
        async with Stage(DISAGGREGATED) as stage:
            status, _, content = await stage.post("/dynamo/placement", data=body, headers=KEY)
            assert status == 400
            assert says in content["error"]["message"]
            shown: Any = (await stage.get("/dynamo/placement", headers=KEY))[2]
            assert shown["max_prefill_queue_size"] is None
            assert not shown["conditional"]

    asyncio.run(scenario())


def test_without_prefill_workers_there_is_nothing_to_place() -> None:
    async def scenario() -> None:
        async with Stage() as stage:
            status, _, content = await stage.get("/dynamo/placement", headers=KEY)
            assert status == 404
            assert "--prefill-workers" in content["error"]["message"]

    asyncio.run(scenario())


def test_no_news_is_no_change() -> None:
    told: list[PlacementRule] = []
    placement = Placement(PlacementRule(), told.append)
    assert placement.change(b"{}")["conditional"] is False
    assert placement.change(b'{"max_prefill_queue_size": null}')["conditional"] is True
    assert len(told) == 2


def test_metrics_of_disaggregation() -> None:
    async def scenario() -> None:
        async with Stage(DISAGGREGATED) as stage:
            queue = await stage.neighbour(ProcessId(Role.PREFILL_QUEUE))
            ended = {"done": 6}
            queue.send(PrefillQueueStats(2, 300, 1, 100, 0.5, False, 9, ended, {}, {}, [0.02], 0))
            worker = await stage.neighbour(WORKER)
            counted = {"remote:always": 3, "local:short": 1}
            worker.send(
                TransferStats(
                    False,
                    0,
                    counted,
                    {"no_room": 1},
                    0,
                    {"load": 2},
                    {"load": 64},
                    {},
                    {},
                    [],
                )
            )
            while not ((await stage.get("/dynamo/snapshot", headers=KEY))[2]["prefill"] or {}).get(
                "copies"
            ):
                await asyncio.sleep(0.005)
            page = (await stage.get("/metrics"))[2].splitlines()
            for line in (
                "dynamo_llm_prefill_queue_depth_jobs 2.0",
                "dynamo_llm_prefill_queue_oldest_age_seconds 0.5",
                'dynamo_llm_prefill_jobs_ended_total{reason="done"} 6.0',
                'dynamo_llm_prefill_placements_total{reason="always",where="remote"} 3.0',
                'dynamo_llm_prefill_placements_total{reason="short",where="local"} 1.0',
                'dynamo_llm_prefill_fallbacks_total{reason="no_room"} 1.0',
                'dynamo_llm_kv_transfer_bytes_total{direction="load"} 64.0',
                'dynamo_llm_prefill_queue_time_seconds_bucket{le="0.05"} 1.0',
            ):
                assert line in page, line

    asyncio.run(scenario())
