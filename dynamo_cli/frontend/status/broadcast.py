"""`/dynamo/stream`: snapshots, and news of routing and logs, for any number of watchers."""

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
"""Of news that wait for a watcher's next turn; above, its turn is now."""

_encode = msgspec.json.Encoder().encode


@dataclass(eq=False)
class _Watcher:
    """Who watches.

    Attributes:
        news: what happened since its last turn, shared with the others; `nbytes` of it.
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
    """The snapshot, and news of routing and logs, as server-sent events.

    What is new is looked for and encoded once, however many watch.

    Args:
        snapshot: gives the state of the tree.
        log: the decisions.
        lines: what processes log.
        clock_ns: the time.
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
        """Let all watchers go."""
        self._closing.set()

    async def watch(self, write: Callable[[bytes], bool], interval_s: float) -> None:
        """Send until the watcher is too slow or all are let go; cancelled when it leaves."""
        watcher = _Watcher()
        self._tell_all()  # what a newcomer is told now must not be news for it later
        watcher.tell(self._past())
        self._watchers.add(watcher)
        due_ns = 0
        try:
            while not self._closing.is_set():
                now = self._clock_ns()
                # Also for who wants to hear seldom: what is new is never much at once.
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
        """What a newcomer missed has a bound; what happens while it watches has not."""
        return (
            _event("decisions", list(self._log.views(self._clock_ns(), limit=DEFAULT_LIMIT)))
            + _event("measured", self._log.measurements(0))
            + _event("logs", self._lines.select(0))
        )

    def _tell_all(self) -> None:
        """What is new since this was last done."""
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
    """One server-sent event; none when there is nothing to tell."""
    return b"event: %b\ndata: %b\n\n" % (name.encode(), _encode(content)) if content else b""
