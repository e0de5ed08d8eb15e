"""Lines of a child's output, as they come out of its log pipe."""

from __future__ import annotations

import logging
from collections import deque
from typing import NamedTuple

LEVEL_END = "\x1f"
"""Our formatter writes ``LEVEL<unit separator>text``; output of anything else has no such mark."""

UNMARKED = "INFO"

TAIL_LINES = 20


class Line(NamedTuple):
    level: str
    text: str


class LogLines:
    """Bytes in, lines out; remembers the last `TAIL_LINES`. Pure."""

    def __init__(self) -> None:
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._rest = b""

    def feed(self, data: bytes) -> list[Line]:
        """The lines that `data` completes."""
        *whole, self._rest = (self._rest + data).split(b"\n")
        return [self._line(raw) for raw in whole if raw.strip()]

    def end(self) -> list[Line]:
        """The last line, when it had no end."""
        return self.feed(b"\n") if self._rest else []

    def _line(self, raw: bytes) -> Line:
        before, mark, after = raw.decode(errors="replace").rstrip().partition(LEVEL_END)
        line = Line(before, after) if mark else Line(UNMARKED, before)
        self.tail.append(line.text)
        return line


class LineFormatter(logging.Formatter):
    """Marks every line of a record, those of its traceback too."""

    def format(self, record: logging.LogRecord) -> str:
        lines = super().format(record).splitlines()
        return "\n".join(f"{record.levelname}{LEVEL_END}{line}" for line in lines)
