"""Only its own pages, under its own names, may open the dashboard in a browser."""

from __future__ import annotations

import asyncio
import io

import aiohttp
import pytest
from aiohttp import web
from rich.console import Console

from dynamo_cli.dashboard.web import WebDashboard

FOREIGN = "https://evil.example"


class Quiet(WebDashboard):
    """A server that starts no dashboard process."""

    async def handle_websocket(self, request: web.Request) -> web.Response:  # type: ignore[override]
        return web.Response()


@pytest.mark.parametrize("path", ["/", "/ws", "/static/js/textual.js"])
@pytest.mark.parametrize(
    ("headers", "welcome"),
    [
        ({}, True),
        ({"Host": "localhost:8182", "Origin": "http://127.0.0.1:8182"}, True),
        ({"Host": "dash.example"}, True),
        ({"Host": "evil.example"}, False),
        ({"Origin": FOREIGN}, False),
        ({"Host": "dash.example", "Origin": FOREIGN}, False),
    ],
)
def test_only_its_own_pages_get_in(path: str, headers: dict[str, str], welcome: bool) -> None:
    async def scenario() -> None:
        out = Console(file=io.StringIO())
        served = Quiet("true", "127.0.0.1", 8182, ("dash.example",), out)
        runner = web.AppRunner(await served._make_app())
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{port}{path}", headers=headers) as answer,
        ):
            assert answer.status == (200 if welcome else 403)
        await runner.cleanup()

    asyncio.run(scenario())
