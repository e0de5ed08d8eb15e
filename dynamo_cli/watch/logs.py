"""The last log lines of all processes. Pure."""

from __future__ import annotations

from collections import deque
from itertools import takewhile

import msgspec

from dynamo_cli.messages.lifecycle import Logged

KEPT = 2_000


class LogView(msgspec.Struct, frozen=True):
    """A log line; see `LogLine`."""

    number: int
    time_s: float
    name: str
    level: str
    text: str


class LogRing:
    """The last `KEPT` lines.

    Attributes:
        dropped: number of lines that the supervisor left out because there were too many at once.
        unwritten: number of lines that could not be written to the command's output.
    """

    def __init__(self) -> None:
        self._kept: deque[LogView] = deque(maxlen=KEPT)
        self.dropped = self.unwritten = 0

    def add(self, news: Logged) -> None:
        """Add lines that the supervisor passes on."""
        self._kept.extend(LogView(*msgspec.structs.astuple(line)) for line in news.lines)
        self.dropped, self.unwritten = news.dropped, news.unwritten

    def select(self, after: int) -> list[LogView]:
        """Return the lines with a number above `after`, oldest first."""
        newest_first = takewhile(lambda line: line.number > after, reversed(self._kept))
        return list(newest_first)[::-1]
