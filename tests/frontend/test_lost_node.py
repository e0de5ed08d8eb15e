"""Nodes, and a worker that goes on reporting when its lost node is linked again."""

from __future__ import annotations

import asyncio
from typing import Any

from dynamo_cli.messages.cluster import NodeState, NodeTable, RelayStats
from dynamo_cli.messages.lifecycle import NODE_LOST
from dynamo_cli.messages.telemetry import WorkerStats

from .stage import WORKER, Stage

BUSY = WorkerStats(0, 2, 1, 0.5, 100, 40, 300, 20, 0, 9, 0)


async def _reported(stage: Stage) -> dict[str, Any]:
    """The worker once its report has come."""
    worker: dict[str, Any] = {"num_running_reqs": 0}
    while worker["num_running_reqs"] != BUSY.num_running_reqs:
        workers = (await stage.get("/dynamo/snapshot"))[2]["workers"]
        worker = workers[0] if workers else worker
    return worker


async def _let_go(stage: Stage) -> None:
    """Wait until the frontend knows that the worker is gone."""
    while (await stage.get("/dynamo/snapshot"))[2]["workers"][0]["num_running_reqs"]:
        await asyncio.sleep(0.005)


def test_totals_double_only_if_the_worker_has_ended() -> None:
    async def scenario() -> None:
        async with Stage() as stage:
            totals = []
            for reason in (f"{NODE_LOST}: silent for 3 s", "SIGKILL", "SIGKILL"):
                worker = await stage.neighbour(WORKER)
                worker.send(BUSY)
                totals.append((await _reported(stage))["output_tokens"])
                worker.die(reason)
                await _let_go(stage)
            assert totals == [20, 20, 40]

    asyncio.run(scenario())


def test_the_snapshot_has_the_nodes_that_the_supervisor_tells_of() -> None:
    async def scenario() -> None:
        async with Stage() as stage:
            stage.tell(NodeTable([NodeState("node-b", True, 0.0, 0.0, RelayStats())]))
            nodes = (await stage.get("/dynamo/snapshot"))[2]["nodes"]
            while not nodes:
                nodes = (await stage.get("/dynamo/snapshot"))[2]["nodes"]
            assert [node["name"] for node in nodes] == ["node-b"]

    asyncio.run(scenario())
