"""What the caches of a kind of worker hold, as their events tell. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from dynamo_cli.kv import hashes
from dynamo_cli.kv.index import PrefixIndex
from dynamo_cli.messages.routing import KvEvents

GAP, START = "gap", "start"
SILENT_AFTER = 3
"""Requests with full blocks that a worker finishes without any event before that is a warning."""


@dataclass(slots=True)
class FeedStatus:
    """The events of one life of a worker.

    Attributes:
        sequence: of the last batch; -1 before the first, or while a resync is awaited.
        batches: that came with anything in them.
        finished: requests with full blocks that had their first token there.
        unknown: blocks that the worker could not translate, by reason.
    """

    sequence: int = -1
    batches: int = 0
    finished: int = 0
    unknown: dict[str, int] = field(default_factory=dict)

    @property
    def silent(self) -> bool:
        return not self.batches and self.finished >= SILENT_AFTER


@dataclass(slots=True)
class Caches:
    """The caches of all workers of a kind.

    Attributes:
        index: who holds what.
        feeds: by worker.
        events: blocks, by what happened to them.
        resyncs: whole sets that came, by reason.
        lag_ns: age of the newest batch when it was applied.
    """

    index: PrefixIndex = field(default_factory=PrefixIndex)
    feeds: dict[int, FeedStatus] = field(default_factory=dict)
    events: Counter[str] = field(default_factory=Counter)
    resyncs: Counter[str] = field(default_factory=Counter)
    lag_ns: int = 0

    def worker_up(self, worker: int) -> None:
        """A worker is there; its first batch says what it holds."""
        self.feeds.setdefault(worker, FeedStatus())

    def worker_down(self, worker: int) -> None:
        """A life of a worker ended, and with it what it held."""
        self.index.drop(worker)
        self.feeds.pop(worker, None)

    def apply(self, message: KvEvents, now_ns: int) -> bool:
        """Apply a batch whole; False: something is missing before it, ask for everything."""
        feed = self.feeds.setdefault(message.worker, FeedStatus())
        if message.whole:
            self.resyncs[GAP if feed.batches else START] += 1
            self.index.drop(message.worker)
        elif message.sequence != feed.sequence + 1:
            # What was known stays in use until the whole set comes: better than nothing.
            first = feed.sequence >= 0
            feed.sequence = -1
            return not first
        feed.sequence = message.sequence
        feed.batches += bool(message.stored or message.removed)
        feed.unknown = message.unknown
        self.lag_ns = now_ns - message.created_ns
        removed, stored = hashes.unpack(message.removed), hashes.unpack(message.stored)
        self.index.remove(message.worker, removed)
        self.index.store(message.worker, stored)
        self.events["removed"] += len(removed)
        self.events["stored"] += len(stored)
        return True

    def unknown_events(self) -> Counter[str]:
        """Blocks that could not be translated or were not there, by reason."""
        unknown = Counter({"unknown_to_index": self.index.unknown_removals})
        for feed in self.feeds.values():
            unknown.update(feed.unknown)
        return +unknown
