"""Log lines: from the bytes of a child's log pipe to batches for the frontend."""

from __future__ import annotations

import logging
import re
from collections import deque
from itertools import islice
from typing import NamedTuple

import orjson

from dynamo_cli.messages.lifecycle import Logged, LogLine
from dynamo_cli.messages.logs import LEVEL_END

UNMARKED = "INFO"
"""Level of lines without a level: they come from libraries that print."""

UNSEEN = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f]")
"""Escape sequences and control characters, which are meant for a terminal."""

TAIL_LINES, TAIL_CHARS = 20, 2000
"""How many of these lines are kept, and how much of each."""

SENT_CHARS = 10_000
"""How much of a line an outpost sends to the head."""

LAST_WORDS = re.compile(
    r"Traceback \(most recent call last\)|Fatal Python error|terminate called|double free"
    r"|(free|malloc|realloc|munmap_chunk)\(\): |corrupted |\*\*\* |.*: Assertion .* failed"
)
"""Beginnings of messages that Python, C++ or the C library prints, without a level, before the
process ends."""

MAX_LINE_BYTES = 1 << 20

FEED_LINES = 1000
BATCH_LINES, LINE_CHARS = 64, 400
"""Bounds of one batch, so that no batch delays other messages to the frontend."""


class OutputLine(NamedTuple):
    """A line of a log.

    Attributes:
        access: whether it is a line of the access log; then `text` is a JSON object.
    """

    level: str
    text: str
    access: bool = False


class LogLines:
    """Splits bytes into lines and keeps those that may explain an end. Pure.

    Attributes:
        tail: the last `TAIL_LINES` warnings and errors, and parts of tracebacks.
    """

    def __init__(self) -> None:
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._rest = b""
        self._in_last_words = False

    def feed(self, data: bytes) -> list[OutputLine]:
        """The lines that `data` completes. A line longer than `MAX_LINE_BYTES` is cut in two."""
        *whole, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > MAX_LINE_BYTES:
            whole.append(self._rest)
            self._rest = b""
        return [line for raw in whole if (line := self._line(raw)).text]

    def end(self) -> list[OutputLine]:
        """The last line, if it did not end with a newline."""
        return self.feed(b"\n") if self._rest else []

    def _line(self, raw: bytes) -> OutputLine:
        before, mark, after = raw.decode(errors="replace").rstrip().partition(LEVEL_END)
        if after.startswith(LEVEL_END) and _is_object(after[1:]):
            return OutputLine(before, after[1:], access=True)
        line = OutputLine(before, _seen(after)) if mark else OutputLine(UNMARKED, _seen(before))
        if line.text and self._explains(line, marked=bool(mark)):
            self.tail.append(cut(line.text, TAIL_CHARS))
        return line

    def _explains(self, line: OutputLine, *, marked: bool) -> bool:
        """Whether a line may say why the process ends.

        Lines without a level that follow the beginning of a traceback belong to it.
        """
        if marked:
            self._in_last_words = False
            return logging.getLevelNamesMapping().get(line.level, 0) >= logging.WARNING
        self._in_last_words = self._in_last_words or bool(LAST_WORDS.match(line.text))
        return self._in_last_words


def cut(text: str, most_chars: int) -> str:
    """The text, or if it is longer, its beginning with a note of how long it was."""
    if len(text) <= most_chars:
        return text
    return f"{text[:most_chars]} ... (cut: it has {len(text):,} characters)"


def _is_object(text: str) -> bool:
    """Whether a line of the access log is intact: other output may have got into the middle."""
    try:
        return isinstance(orjson.loads(text), dict)
    except orjson.JSONDecodeError:
        return False


def _seen(text: str) -> str:
    """What a terminal would show of a line: the last state of a progress bar, without escapes."""
    return UNSEEN.sub("", text.rstrip("\r").rpartition("\r")[2]).rstrip()


class LogFeed:
    """Queue of log lines for the frontend; keeps the last `FEED_LINES`. Pure."""

    def __init__(self) -> None:
        self._lines: deque[LogLine] = deque(maxlen=FEED_LINES)
        self._number = self._sent = self._dropped = self._unwritten = 0

    def add(self, time_s: float, name: str, level: str, text: str) -> None:
        """Append a line. When the queue is full, the oldest line is dropped and counted."""
        self._number += 1
        if len(self._lines) == FEED_LINES and self._lines[0].number > self._sent:
            self._dropped += 1
        self._lines.append(LogLine(self._number, time_s, name, level, cut(text, LINE_CHARS)))

    def restart(self) -> None:
        """Start again with the oldest line that is kept, for a new frontend."""
        self._sent = self._unwritten = 0

    @property
    def behind(self) -> bool:
        """Whether there are lines left to send."""
        return self._sent < self._number

    def take(self, unwritten: int = 0) -> Logged | None:
        """The next batch to send; None when there is nothing to send.

        Args:
            unwritten: how many lines the view could not write so far.
        """
        if not self.behind and unwritten == self._unwritten:
            return None
        skip = max(0, self._sent + 1 - self._lines[0].number) if self._lines else 0
        batch = list(islice(self._lines, skip, skip + BATCH_LINES))
        self._sent = batch[-1].number if batch else self._sent
        self._unwritten = unwritten
        return Logged(batch, self._dropped, unwritten)


class LineFormatter(logging.Formatter):
    """Puts the level before every line of a record, the lines of its traceback included."""

    def format(self, record: logging.LogRecord) -> str:
        """The lines of a record, each with its level."""
        lines = super().format(record).splitlines()
        return "\n".join(f"{record.levelname}{LEVEL_END}{line}" for line in lines)
