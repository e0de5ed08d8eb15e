"""Knows from KV events what the caches of all processes of one kind hold. Pure.

The kinds are workers, prefill workers and host caches; "worker" below means a process of one kind.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from dynamo_cli.kv import hashes
from dynamo_cli.kv.index import PrefixIndex
from dynamo_cli.messages.routing import KvEvents

GAP, START = "gap", "start"
SILENT_AFTER = 3
"""Number of prefills with full blocks after which a worker that sent no event is reported."""


@dataclass(slots=True)
class FeedStatus:
    """The state of the stream of KV events of one worker, since the worker started.

    Attributes:
        expected: number of the next batch of events; 0 before the first, and while the worker is
            to send its whole set.
        batches: number of batches that were not empty.
        finished: prefills of prompts with full blocks that are over on this worker.
        unknown: number of blocks that the worker could not translate, by reason.
    """

    expected: int = 0
    batches: int = 0
    finished: int = 0
    unknown: dict[str, int] = field(default_factory=dict)

    @property
    def silent(self) -> bool:
        """Whether the worker has sent no events although it must have stored blocks."""
        return not self.batches and self.finished >= SILENT_AFTER


@dataclass(slots=True)
class Caches:
    """The caches of all workers of one kind.

    Attributes:
        index: which worker holds which block.
        feeds: status of the event stream of each worker.
        events: number of blocks in events, by "stored" and "removed".
        resyncs: number of whole sets that came, by reason: `START` or `GAP`.
        lag_ns: age of the newest batch when it was applied, nanoseconds.
    """

    index: PrefixIndex = field(default_factory=PrefixIndex)
    feeds: dict[int, FeedStatus] = field(default_factory=dict)
    events: Counter[str] = field(default_factory=Counter)
    resyncs: Counter[str] = field(default_factory=Counter)
    lag_ns: int = 0

    def worker_up(self, worker: int) -> None:
        """Note that a worker is up; its first batch says what it holds."""
        self.feeds.setdefault(worker, FeedStatus())

    def worker_down(self, worker: int) -> None:
        """Forget all that a worker held, because its process ended."""
        self.index.drop(worker)
        self.feeds.pop(worker, None)

    def apply(self, message: KvEvents, now_ns: int) -> bool:
        """Apply a batch of events.

        Returns:
            False if the caller must ask the worker for its whole set, because a batch is missing.
            This is so once per gap.
        """
        feed = self.feeds.setdefault(message.worker, FeedStatus())
        if message.whole:
            self.resyncs[GAP if feed.batches else START] += 1
            self.index.drop(message.worker)
        elif message.sequence != feed.expected:
            # Until the whole set comes, the set without this batch is used: it is mostly right.
            is_first_gap = feed.expected > 0
            feed.expected = 0
            return not is_first_gap
        feed.expected = message.sequence + 1
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
        """Count the blocks that workers could not translate or that the index lacks, by reason."""
        unknown = Counter({"unknown_to_index": self.index.unknown_removals})
        for feed in self.feeds.values():
            unknown.update(feed.unknown)
        return +unknown
