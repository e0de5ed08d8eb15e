"""What was changed through a frontend is there for the next one, and for new workers."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from dynamo_cli.config import (
    Adapter,
    AdapterTable,
    EngineConfig,
    FrontendConfig,
    PlacementRule,
    WorkerConfig,
)
from dynamo_cli.messages.lifecycle import AdaptersChanged, PlacementChanged
from dynamo_cli.serve_config import ServeConfig
from dynamo_cli.supervisor.tree import Supervisor
from dynamo_cli.topology import FRONTEND, ProcessId, Role

RULE = PlacementRule(True, 50, 3)
TABLE = AdapterTable((Adapter("one", "/one", 7),), 7)


def test_processes_that_are_started_later_have_what_a_frontend_has_changed() -> None:
    async def scenario() -> None:
        config = ServeConfig(
            EngineConfig("m", "m", ("m",)),
            FrontendConfig(placement=PlacementRule()),
            prefill_devices=((),),
        )
        view: Any = SimpleNamespace()
        tree = Supervisor(config, view)
        reporter: Any = SimpleNamespace(process=FRONTEND)
        for change in (PlacementChanged(RULE), AdaptersChanged(TABLE)):
            tree.on_report(reporter, change, ())
        frontend = tree._config_of(FRONTEND)
        assert isinstance(frontend, FrontendConfig)
        assert (frontend.placement, frontend.adapters) == (RULE, TABLE)
        worker = tree._config_of(ProcessId(Role.WORKER, 0))
        assert isinstance(worker, WorkerConfig)
        assert worker.placement == RULE

    asyncio.run(scenario())
