"""The dashboard of a server that runs elsewhere. Quitting it leaves the server alone."""

from __future__ import annotations

import asyncio
import signal

from dynamo_cli.dashboard import hangup
from dynamo_cli.dashboard.app import Dashboard
from dynamo_cli.dashboard.client import DashboardClient
from dynamo_cli.dashboard.embedded import where
from dynamo_cli.dashboard.model import BoardState
from dynamo_cli.dashboard.source import Source
from dynamo_cli.errors import InternalError


def run(client: DashboardClient) -> None:
    """Run the dashboard until it is quit.

    Raises:
        InternalError: the dashboard has a bug.
    """
    asyncio.run(_run(client))


async def _run(client: DashboardClient) -> None:
    app = Dashboard(BoardState(client.url), source=Source.of(client, client.events))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, app.exit)
    hangup.watch()
    await app.run_async()
    if app.failure is not None:
        raise InternalError(f"the dashboard failed: {where(app.failure)}.")
