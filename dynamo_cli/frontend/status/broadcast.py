"""`/dynamo/stream`: snapshots, decisions and log lines, sent to any number of watchers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import msgspec

from dynamo_cli.frontend.status.inspect import DEFAULT_LIMIT, MIN_INTERVAL_S
from dynamo_cli.units import SECOND_NS
from dynamo_cli.watch.decisions import DecisionLog
from dynamo_cli.watch.logs import LogRing
from dynamo_cli.watch.schema import Snapshot

MAX_PENDING_BYTES = 8 * 1024 * 1024
"""A watcher for which more bytes of events wait gets them before its interval is over."""

_encode = msgspec.json.Encoder().encode


@dataclass(eq=False)
class _Watcher:
    """One client of the stream.

    Attributes:
        news: encoded events since it was last written to; watchers share the bytes objects.
        nbytes: their size.
    """

    news: list[bytes] = field(default_factory=list)
    nbytes: int = 0

    def tell(self, news: bytes) -> None:
        self.news.append(news)
        self.nbytes += len(news)

    def take(self) -> bytes:
        news, self.news, self.nbytes = b"".join(self.news), [], 0
        return news


class Broadcast:
    """Fans out the snapshot, new decisions and new log lines as server-sent events.

    Events are collected and encoded once, however many watchers there are.

    Args:
        snapshot: makes the current snapshot of the tree.
        log: the last routing decisions.
        lines: the last log lines of all processes.
        clock_ns: the monotonic time in nanoseconds.
    """

    def __init__(
        self,
        snapshot: Callable[[], Snapshot],
        log: DecisionLog,
        lines: LogRing,
        clock_ns: Callable[[], int],
    ) -> None:
        self._snapshot = snapshot
        self._log = log
        self._lines = lines
        self._clock_ns = clock_ns
        self._made_ns = self._told_ns = 0
        self._made = b""
        self._decision = self._measurement = self._line = 0
        self._watchers: set[_Watcher] = set()
        self._closing = asyncio.Event()

    def close(self) -> None:
        """End all streams."""
        self._closing.set()

    async def watch(self, write: Callable[[bytes], bool], interval_s: float) -> None:
        """Send events until the client reads too slowly or `close` is called.

        Args:
            write: sends bytes; False if the client is too slow.
            interval_s: time between two snapshots.
        """
        watcher = _Watcher()
        self._tell_all()  # so that nothing in `_past` is sent again as news
        watcher.tell(self._past())
        self._watchers.add(watcher)
        due_ns = 0
        try:
            while not self._closing.is_set():
                now = self._clock_ns()
                # Also with long intervals, so that no collection of news gets large.
                if now - self._told_ns > MIN_INTERVAL_S * SECOND_NS / 2:
                    self._tell_all()
                if now >= due_ns or watcher.nbytes > MAX_PENDING_BYTES:
                    if not write(self._snapshot_event() + watcher.take()):
                        return
                    due_ns = now + int(interval_s * SECOND_NS)
                await self._pause(min(MIN_INTERVAL_S, (due_ns - now) / SECOND_NS))
        finally:
            self._watchers.discard(watcher)

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._closing.wait(), seconds)

    def _past(self) -> bytes:
        """The recent events that a new watcher gets first; their number is bounded."""
        return (
            _event("decisions", list(self._log.views(self._clock_ns(), limit=DEFAULT_LIMIT)))
            + _event("measured", self._log.measurements(0))
            + _event("logs", self._lines.select(0))
        )

    def _tell_all(self) -> None:
        """Collect the news since the last call, and add it to each watcher."""
        self._told_ns = self._clock_ns()
        measured = self._log.measurements(self._measurement)
        lines = self._lines.select(self._line)
        number = self._decision
        self._decision = self._log.last_number
        self._measurement = measured[-1].number if measured else self._measurement
        self._line = lines[-1].number if lines else self._line
        if not self._watchers:
            return
        decisions = list(self._log.views(self._told_ns, after=number))
        news = _event("decisions", decisions) + _event("measured", measured) + _event("logs", lines)
        for watcher in self._watchers if news else ():
            watcher.tell(news)

    def _snapshot_event(self) -> bytes:
        now = self._clock_ns()
        if now - self._made_ns > MIN_INTERVAL_S * SECOND_NS / 2:
            self._made = _event("snapshot", self._snapshot())
            self._made_ns = now
        return self._made


def _event(name: str, content: object) -> bytes:
    """One server-sent event; empty if the content is empty."""
    return b"event: %b\ndata: %b\n\n" % (name.encode(), _encode(content)) if content else b""
