"""A grid of cells on which boxes and arrows are drawn. Pure."""

from __future__ import annotations

from itertools import groupby
from operator import itemgetter

from rich.text import Text

from dynamo_cli.dashboard.draw.style import STRONG, clipped

NARROW = 18


def pad(width: int) -> int:
    """Return the number of empty cells at each side inside a frame of this width."""
    return 1 if width > NARROW else 0


class Canvas:
    """`width` x `height` empty cells. What is drawn outside of them is ignored."""

    def __init__(self, width: int, height: int) -> None:
        self._width = width
        self._rows: list[list[tuple[str, str]]] = [[(" ", "")] * width for _ in range(height)]

    def put(self, x: int, y: int, what: str | Text, style: str = "") -> None:
        """Draw a line of text, with the styles of its parts."""
        text = Text(what, style) if isinstance(what, str) else what
        styles = [str(text.style)] * len(text)
        for span in text.spans:
            styles[span.start : span.end] = [str(span.style)] * (span.end - span.start)
        for offset, pair in enumerate(zip(text.plain, styles, strict=True)):
            if 0 <= x + offset < self._width and 0 <= y < len(self._rows):
                self._rows[y][x + offset] = pair

    def box(self, x: int, y: int, width: int, title: str, lines: list[Text], style: str) -> None:
        """Draw a frame around lines.

        Args:
            x, y: its upper left corner.
            width: its outer width.
            title: text in the upper edge.
            lines: text inside.
            style: style of the frame.
        """
        inner = width - 2
        self.put(x, y, "╭" + "─" * inner + "╮", style)
        self.put(
            x + 1,
            y,
            clipped(Text(f" {title} " if len(title) < inner - 1 else title, STRONG), inner),
        )
        for row, line in enumerate(lines, y + 1):
            self.put(x, row, "│" + " " * inner + "│", style)
            self.put(x + 1 + pad(width), row, clipped(line, inner - 2 * pad(width)))
        self.put(x, y + len(lines) + 1, "╰" + "─" * inner + "╯", style)

    def text(self) -> Text:
        """Return the whole canvas as text."""
        sheet = Text(no_wrap=True)
        for number, row in enumerate(self._rows):
            if number:
                sheet.append("\n")
            for style, cells in groupby(row, key=itemgetter(1)):
                sheet.append("".join(cell for cell, _ in cells), style or None)
        return sheet
