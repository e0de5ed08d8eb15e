"""The cache tab: hit rates, their limit, and the index."""

from __future__ import annotations

from collections.abc import Callable

from rich.text import Text
from textual.app import ComposeResult

from dynamo_cli.dashboard.draw import cache, trends
from dynamo_cli.dashboard.model import Board
from dynamo_cli.dashboard.widgets.pane import Pane
from dynamo_cli.dashboard.widgets.tab import Tab


class CacheTab(Tab):
    """The fourth tab, about caches.

    Args:
        span_s: returns the time span of the curves, seconds.
    """

    def __init__(self, span_s: Callable[[], int]) -> None:
        super().__init__(id="cache")
        self._span_s = span_s

    def compose(self) -> ComposeResult:
        """Create the widgets."""
        yield Pane(lambda board, width, _: cache.draw(board, width), id="cache-numbers")
        yield Pane(self._trends, classes="trends")

    def _trends(self, board: Board, width: int, height: int) -> Text:
        routed = board.snapshot is not None and board.snapshot.router is not None
        curves = cache.CURVES if routed else cache.UNROUTED_CURVES
        return trends.draw(board.samples, curves, width, height, self._span_s())
