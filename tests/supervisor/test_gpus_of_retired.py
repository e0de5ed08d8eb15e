"""A worker that is added gets no GPU before the worker that retires there has ended."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from dynamo_cli.config import Device, EngineConfig, FrontendConfig, RouterConfig, SimulationConfig
from dynamo_cli.messages.lifecycle import Phase, ProcessState
from dynamo_cli.serve_config import ServeConfig
from dynamo_cli.supervisor.child import Child
from dynamo_cli.supervisor.tree import Supervisor
from dynamo_cli.topology import ProcessId, Role

GPUS = tuple(Device(str(number), f"GPU-{number}") for number in range(3))
WORKERS = tuple(ProcessId(Role.WORKER, index) for index in range(3))


class Quiet(Supervisor):
    """A supervisor whose children have no processes."""

    def _begin(self, child: Child) -> None:
        """No process is needed here."""


def test_a_worker_waits_until_its_gpu_is_free() -> None:
    rows: dict[str, ProcessState] = {}

    def see(table: Sequence[ProcessState]) -> None:
        rows.clear()
        rows.update({row.name: row for row in table})

    async def scenario() -> None:
        view: Any = SimpleNamespace(notice=lambda *_: None, processes=see)
        engine = EngineConfig("m", "m", ("m",), simulation=SimulationConfig("gpu-8b"))
        # The plan gives the free GPU with the lowest number to the next worker.
        devices = tuple((gpu,) for gpu in reversed(GPUS))
        config = ServeConfig(
            engine, FrontendConfig(), devices, gpus=GPUS, router=RouterConfig("least-loaded")
        )
        tree = Quiet(config, view)
        tree._has_served = True

        def end(process: ProcessId) -> None:
            child = tree._children[process]
            child.discard()
            tree.on_exit(child, 0)

        tree._start_workers()
        assert [rows[one.name].gpus for one in WORKERS] == [("2",), ("1",), ("0",)]
        tree._rescale(1)
        tree._rescale(2)
        end(WORKERS[1])
        row = rows[WORKERS[1].name]
        assert (row.phase, row.reason) == (Phase.STARTING, "waiting for the GPUs of worker 2")
        assert row.gpus == ("0",)
        tree._start_workers()
        assert WORKERS[1] not in tree._children
        end(WORKERS[2])
        assert tree._children[WORKERS[1]].alive
        assert tree._children[WORKERS[1]].start.gpus == ("0",)
        tree._background.cancel()
        for child in tree._alive():
            child.discard()

    asyncio.run(scenario())
