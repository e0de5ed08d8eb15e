"""Lines of a child's output, as they come out of its log pipe."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

LEVEL_END = "\x1f"
"""Our formatter writes ``LEVEL<unit separator>text``; output of anything else has no such mark."""

TAIL_LINES = 20


class Line(NamedTuple):
    level: str
    text: str


class LogLines:
    """Bytes in, lines out; remembers the last `TAIL_LINES`. Pure."""

    def __init__(self) -> None:
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._rest = b""
        self._level = "INFO"

    def feed(self, data: bytes) -> list[Line]:
        """The lines that `data` completes."""
        *whole, self._rest = (self._rest + data).split(b"\n")
        return [self._line(raw) for raw in whole if raw.strip()]

    def end(self) -> list[Line]:
        """The last line, when it had no end."""
        return self.feed(b"\n") if self._rest else []

    def _line(self, raw: bytes) -> Line:
        """A line without a level belongs to the one before (a traceback, say)."""
        text = raw.decode(errors="replace").rstrip()
        level, mark, rest = text.partition(LEVEL_END)
        if mark:
            self._level, text = level, rest
        self.tail.append(text)
        return Line(self._level, text)
