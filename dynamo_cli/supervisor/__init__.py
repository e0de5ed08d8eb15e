"""The process tree: `run` starts it and returns when all of it is gone."""

from __future__ import annotations

import asyncio

from dynamo_cli.serve_config import ServeConfig
from dynamo_cli.supervisor.view import View


def run(config: ServeConfig, view: View) -> int:
    """Serve until a signal or a failure; see `Supervisor.run`."""
    return asyncio.run(serve(config, view))


async def serve(config: ServeConfig, view: View) -> int:
    """The same, beside whatever else this event loop does."""
    from dynamo_cli.supervisor.tree import Supervisor  # noqa: PLC0415 - children import this package

    return await Supervisor(config, view).run()
