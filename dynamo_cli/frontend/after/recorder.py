"""Writes the file of ``--record`` in a thread, so that a slow disk delays no answer."""

from __future__ import annotations

import logging
import os
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable
from queue import SimpleQueue

from dynamo_cli.errors import UsageError
from dynamo_cli.frontend.after import record
from dynamo_cli.host import oserrors, vital
from dynamo_cli.messages.request import Prompt
from dynamo_cli.messages.set_up import SetUp
from dynamo_cli.units import MS_NS
from dynamo_cli.watch.load_schema import QUEUE_FULL, WRITE_FAILED, HostView
from dynamo_cli.watch.timelines import RequestRecord

MOST_WAITING = 10_000
"""Number of requests that may wait for the disk; more are dropped and counted."""

TAIL_BYTES = 4 << 20
"""More than any line has: a prompt of a million tokens in blocks of 16 has 1.3 MB of hashes."""

MEASURE_S = 5.0
"""Time between two looks at the room that is left, seconds."""

CLOSE_S = 5.0
"""How long `close` waits for the disk."""

MOST_BYTES = 64 << 20
"""Most bytes that `Recorder.last` returns."""

SEARCH_BYTES, OVERLAP = 64 << 10, 64
"""How much is read at once while the first line is searched, and how much of it again, for a begin
of a line that lies across."""

NEWLINE = ord("\n")


logger = logging.getLogger(__name__)

_QueuedEntry = tuple[RequestRecord, tuple[Prompt, ...]] | SetUp


class Recorder:
    """Appends finished requests to a file; an existing record is continued.

    Args:
        path: the file.
        set_up: says what serves; it is asked at the first request, when engines are ready.

    Attributes:
        recorded: number of requests written.
        lost: number of requests that were not written, by reason.

    Raises:
        UsageError: the file cannot be written, or is not a record.
    """

    def __init__(self, path: str, set_up: Callable[[], SetUp]) -> None:
        self._path = path
        self._set_up: Callable[[], SetUp] | None = set_up
        self.recorded = 0
        self.lost: Counter[str] = Counter()
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            self._size = os.fstat(self._file).st_size
            start = max(0, self._size - TAIL_BYTES)
            tail = os.pread(self._file, TAIL_BYTES, start)
            origin_ms = record.end_ms(tail)
        except OSError as error:
            reason = oserrors.reason(error)
            raise UsageError(f"cannot record to {path}: {reason}.") from error
        except UsageError as error:
            raise UsageError(f"cannot record to {path}: {error.message}.") from error
        self._room: tuple[int | None, int | None] = (None, None)
        self._measured_s = 0.0
        self._origin_ns = time.monotonic_ns() - round(origin_ms * MS_NS)
        self._salt = secrets.token_bytes(16)
        self._queue: SimpleQueue[_QueuedEntry | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._write_all, name="recorder", daemon=True)
        self._thread.start()

    def add(self, request: RequestRecord, prompts: tuple[Prompt, ...]) -> None:
        """Queue a request for the thread; never blocks."""
        if self._queue.qsize() >= MOST_WAITING:
            self._lose(QUEUE_FULL)
            return
        if self._set_up is not None:
            self._queue.put(self._set_up())
            self._set_up = None
        self._queue.put((request, prompts))

    def last(self, seconds: float) -> bytes:
        """Return the lines of the last seconds, at most `MOST_BYTES` of them. This reads the disk.

        Raises:
            OSError: the file cannot be read.
        """
        since_ms = (time.monotonic_ns() - self._origin_ns) / MS_NS - seconds * 1000
        size = self._size
        low = self._begin_after(max(0, size - MOST_BYTES), size)[0]
        high = size
        while high - low > SEARCH_BYTES:
            begin, at_ms = self._begin_after((low + high) // 2, high)
            if begin < high and at_ms < since_ms:
                low = begin
            else:
                high = (low + high) // 2
        begin, at_ms = self._begin_after(low, size)
        while begin < size and at_ms < since_ms:
            begin, at_ms = self._begin_after(begin + 1, size)
        return os.pread(self._file, size - begin, begin)

    def _begin_after(self, place: int, end: int) -> tuple[int, float]:
        """Find the first line that begins at `place` or later: where, and its timestamp; `end` if
        there is none before."""
        at = max(place - 1, 0)
        while at < end:
            block = os.pread(self._file, SEARCH_BYTES, at)
            for found in record.BEGIN.finditer(block):
                begin = at + found.start() + (block[found.start()] == NEWLINE)
                if (not at or found.start() or block[0] == NEWLINE) and place <= begin < end:
                    return begin, float(found[1])
            at += SEARCH_BYTES - OVERLAP
        return end, 0.0

    def state(self) -> HostView:
        """Return the room for the record, and what could not be recorded."""
        total, free = self._room
        return HostView(
            record_total_bytes=total, record_free_bytes=free, unrecorded=dict(self.lost)
        )

    def close(self) -> None:
        """Write what waits, for `CLOSE_S` at most."""
        self._queue.put(None)
        self._thread.join(CLOSE_S)

    # -- the thread --------------------------------------------------------------------------

    @vital.callback
    def _write_all(self) -> None:
        head = b""  # is written together with the first request, so that a record ends with one
        while (entry := self._queue.get()) is not None:
            if isinstance(entry, SetUp):
                head = record.heading(entry)
                continue
            request, prompts = entry
            rows = b"".join(record.lines(request, prompts, self._origin_ns, self._salt))
            if self._write(head + rows if rows else rows) and rows:
                head = b""
            self._measure()

    def _measure(self) -> None:
        """Read now and then how much room is left; in this thread, since a disk can hang."""
        if (now_s := time.monotonic()) - self._measured_s < MEASURE_S:
            return
        self._measured_s = now_s
        try:
            found = os.fstatvfs(self._file)
        except OSError:
            self._room = (None, None)  # the next write says why
        else:
            self._room = (found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize)

    def _write(self, data: bytes) -> bool:
        """Write all of the data or nothing, since half a line would make the next one invalid.

        Returns:
            whether it was written.
        """
        try:
            written = os.write(self._file, data)
            if written < len(data):
                raise OSError(None, "no space left for a whole line")
        except OSError as error:
            self._lose(WRITE_FAILED, oserrors.reason(error))
            self._take_back()
            return False
        self._size += len(data)
        self.recorded += 1
        return True

    def _take_back(self) -> None:
        try:
            os.ftruncate(self._file, self._size)
        except OSError as error:
            logger.warning("%s may end with half a line: %s", self._path, error)

    def _lose(self, reason: str, why: str = "the disk is too slow") -> None:
        if not self.lost[reason]:
            logger.warning("requests are not recorded in %s: %s", self._path, why)
        self.lost[reason] += 1
