"""A widget with text that a function draws from a board."""

from __future__ import annotations

from collections.abc import Callable

from rich.text import Text
from textual import events
from textual.widgets import Static

from dynamo_cli.dashboard.model import Board

Draw = Callable[[Board, int, int], Text]
"""Draws a board; the two numbers are the available width and height in cells."""


class Pane(Static):
    """Draws again when the board or its size has changed; the screen is updated only if the text
    differs.

    Args:
        draw: draws the text.
    """

    def __init__(self, draw: Draw, *, id: str | None = None, classes: str | None = None) -> None:  # noqa: A002
        super().__init__("", id=id, classes=classes)
        self._draw = draw
        self._board: Board | None = None
        self._shown: Text | None = None

    def show(self, board: Board) -> None:
        """Show this board from now on."""
        self._board = board
        self._redraw()

    def on_resize(self, event: events.Resize) -> None:
        """Draw for the new size."""
        self._redraw()

    def _redraw(self) -> None:
        width, height = self.container_size.width, self.size.height
        width = self.size.width or width
        if self._board is None or not width:
            return
        text = self._draw(self._board, width, height)
        if text != self._shown or text.spans != (self._shown.spans if self._shown else None):
            self._shown = text
            self.update(text)
