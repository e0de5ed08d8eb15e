"""A widget with text that a function draws from a board."""

from __future__ import annotations

from collections.abc import Callable

from rich.text import Text
from textual.app import RenderResult
from textual.widgets import Static

from dynamo_cli.dashboard.draw.style import toned
from dynamo_cli.dashboard.model import Board

Draw = Callable[[Board, int, int], Text]
"""Draws a board; the two numbers are the available width and height in cells."""


class Pane(Static):
    """Draws again when the board or its size has changed; the screen is updated only if the text
    differs.

    Args:
        draw: draws the text.
        dims: whether the text is faint while the board is out of date.
    """

    def __init__(
        self,
        draw: Draw,
        *,
        id: str | None = None,  # noqa: A002
        classes: str | None = None,
        dims: bool = True,
    ) -> None:
        super().__init__("", id=id, classes=classes)
        self._draw = draw
        self._dims = dims
        self._board: Board | None = None
        self._shown: Text | None = None

    def show(self, board: Board) -> None:
        """Show this board from now on."""
        self._board = board
        self._redraw()

    def render(self) -> RenderResult:
        """Draw for the size that it has now, which may be new, before it is told so."""
        self._redraw()
        return super().render()

    def _redraw(self) -> None:
        width, height = self.container_size.width, self.size.height
        width = self.size.width or width
        if self._board is None or not width:
            return
        stale = self._dims and self._board.stale_since_s is not None
        drawn = self._draw(self._board, width, height)
        text = toned(drawn, stale=stale, no_color=self.app.no_color)
        shown = self._shown
        if shown is None or text != shown or (text.spans, text.style) != (shown.spans, shown.style):
            self._shown = text
            self.update(text)
