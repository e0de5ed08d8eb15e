"""The dashboard in a browser: textual-serve runs one attached dashboard for each page."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from textual_serve.server import Server


class WebDashboard(Server):
    """Serves it at one address.

    Args:
        command: of an attached dashboard; its API key comes from the environment.
        out: where the address is said.
    """

    def __init__(self, command: str, host: str, port: int, out: Console) -> None:
        super().__init__(
            command, host=host, port=port, title="dynamo-llm", templates_path=Path(__file__).parent
        )
        self.console = out

    async def on_startup(self, app: object) -> None:
        """Say where it is."""
        self.console.print(
            f"the dashboard is at {self.public_url}; Ctrl-C ends it", highlight=False
        )

    def initialize_logging(self) -> None:
        """Its own log would have a line for every request; failures are logged in any case."""
