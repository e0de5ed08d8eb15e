"""The replay tab: what other policies would have done to the last hour of this server."""

from __future__ import annotations

from textual.app import ComposeResult

from dynamo_cli.dashboard.draw import replay
from dynamo_cli.dashboard.widgets.pane import Pane
from dynamo_cli.dashboard.widgets.tab import Tab


class ReplayTab(Tab):
    """The eighth tab, for experiments."""

    def __init__(self) -> None:
        super().__init__(id="replay")

    def compose(self) -> ComposeResult:
        """Create the widgets."""
        yield Pane(lambda board, width, _: replay.draw(board, width), id="replay-pane", dims=False)
