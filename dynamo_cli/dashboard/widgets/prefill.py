"""The prefill tab: the prefill queue, which prompts go there, and why."""

from __future__ import annotations

from collections.abc import Callable

from rich.text import Text
from textual.app import ComposeResult

from dynamo_cli.dashboard.draw import prefill, trends
from dynamo_cli.dashboard.model import Board
from dynamo_cli.dashboard.widgets.pane import Pane
from dynamo_cli.dashboard.widgets.tab import Tab


class PrefillTab(Tab):
    """The fifth tab, about prefill.

    Args:
        span_s: returns the time span of the curves, seconds.
    """

    def __init__(self, span_s: Callable[[], int]) -> None:
        super().__init__(id="prefill")
        self._span_s = span_s

    def compose(self) -> ComposeResult:
        """Create the widgets."""
        yield Pane(lambda board, width, _: prefill.draw(board, width), id="prefill-numbers")
        yield Pane(self._trends, classes="trends")

    def _trends(self, board: Board, width: int, height: int) -> Text:
        apart = board.snapshot is not None and board.snapshot.prefill is not None
        curves = prefill.CURVES if apart else prefill.CURVES_OF_WORKERS
        return trends.draw(board.samples, curves, width, height, self._span_s())
