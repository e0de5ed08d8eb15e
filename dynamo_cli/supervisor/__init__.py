"""The process tree: `run` starts it and returns when all of it is gone."""

from __future__ import annotations

import asyncio

from dynamo_cli.config import ServeConfig
from dynamo_cli.supervisor.view import View


def run(config: ServeConfig, view: View) -> int:
    """Serve until a signal or a failure; see `Supervisor.run`."""
    from dynamo_cli.supervisor.supervisor import Supervisor  # noqa: PLC0415 - children import this package

    return asyncio.run(Supervisor(config, view).run())
