"""The dashboard in a browser: textual-serve runs one attached dashboard for each page.

Connections of browsers come in, after the checks of `OriginGate`; the screen of a dashboard process
goes out. All of it is in this file.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

from aiohttp import web
from rich.console import Console
from textual_serve.server import Server

from dynamo_cli.config import OriginRules
from dynamo_cli.errors import Forbidden
from dynamo_cli.origin import OriginGate

WebHandler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class WebDashboard(Server):
    """Serves the dashboard at one address, only to its own pages.

    Args:
        command: starts an attached dashboard; its API key comes from the environment.
        host: address to listen on.
        port: port to listen on.
        hosts: further names by which browsers may call it.
        out: where the address is printed.
    """

    def __init__(
        self, command: str, host: str, port: int, hosts: tuple[str, ...], out: Console
    ) -> None:
        super().__init__(
            command, host=host, port=port, title="dynamo-llm", templates_path=Path(__file__).parent
        )
        self.console = out
        self._gate = OriginGate(OriginRules(hosts=hosts), host)

    async def _make_app(self) -> web.Application:
        app = await super()._make_app()
        app.middlewares.append(self._guard)
        return app

    @web.middleware
    async def _guard(self, request: web.Request, handler: WebHandler) -> web.StreamResponse:
        """Refuse pages of other sites: the socket controls a process with the server's API key."""
        try:
            self._gate.check(request.headers)
        except Forbidden as error:
            return web.Response(status=error.http_status, text=f"{error.message}\n")
        return await handler(request)

    async def on_startup(self, app: object) -> None:
        """Print the address."""
        self.console.print(
            f"the dashboard is at {self.public_url}; Ctrl-C ends it", highlight=False
        )

    def initialize_logging(self) -> None:
        """Disable the request log; failures are logged in any case."""
