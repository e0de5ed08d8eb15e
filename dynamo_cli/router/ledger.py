"""The load that was promised to each worker. Pure: the clock is an argument, nanoseconds.

A request's blocks are reserved when it is placed, not when its worker reports them, so that a burst
sees its own load. What the worker reports corrects the sum: answers grow, prefixes are shared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from dynamo_cli.messages import WorkerStats

SECOND_NS = 1_000_000_000
SETTLE_NS = 20_000_000
"""A request takes up to this long to its engine: younger ones are in no report."""

IDLE_GRACE_NS = 2 * SECOND_NS
"""An idle engine has surely ended what was placed this long ago."""

EXPIRY_NS = 90 * SECOND_NS
"""Without a sign of life for so long, a request is lost; processors give one every 20 s."""

UNPREDICTED = -1

IDLE_ENGINE, EXPIRED = "idle_engine", "expired"
WORKER_GONE, PROCESSOR_GONE = "worker_gone", "processor_gone"


@dataclass(slots=True)
class Entry:
    """A placed request.

    Attributes:
        prefill_blocks: that its worker still has to compute; 0 after the first token.
        decode_blocks: that its prompt occupies.
        full_blocks: of its prompt, which the worker's events should show.
        prompt_tokens, predicted_tokens: of the prompt, and of those expected in the cache;
            UNPREDICTED when nobody said.
        waiting: its first token has not come.
        alive_ns: last sign of life.
    """

    processor: int
    worker: int
    prefill_blocks: int
    decode_blocks: int
    full_blocks: int
    prompt_tokens: int
    predicted_tokens: int
    placed_ns: int
    alive_ns: int
    waiting: bool = True


@dataclass(slots=True)
class WorkerBook:
    """Sums over the entries of one worker.

    Attributes:
        drift_blocks: what its last report added to `decode_blocks`.
        num_blocks: of its KV cache.
        max_active: requests above which it takes no more; 0 is no limit.
        last_used: number of the decision that chose it last.
    """

    num_blocks: int = 0
    max_active: int = 0
    active_requests: int = 0
    waiting_requests: int = 0
    prefill_blocks: int = 0
    decode_blocks: int = 0
    drift_blocks: int = 0
    last_used: int = 0

    @property
    def full(self) -> bool:
        return 0 < self.max_active <= self.active_requests

    @property
    def occupied_blocks(self) -> int:
        """Blocks in use, as far as promises and the last report tell."""
        return max(self.decode_blocks + self.drift_blocks, 0)


@dataclass(slots=True)
class Ledger:
    """All placed requests.

    Attributes:
        entries: by request id.
        books: by worker index: those that can take requests.
        released: entries that ended otherwise than by their request's end, by reason.
    """

    entries: dict[str, Entry] = field(default_factory=dict)
    books: dict[int, WorkerBook] = field(default_factory=dict)
    released: Counter[str] = field(default_factory=Counter)

    def worker_up(self, worker: int, num_blocks: int, max_active: int) -> None:
        """A worker begins a life, or is heard of for the first time and may have load already."""
        if worker in self.books:
            self.worker_down(worker)
        self.books[worker] = WorkerBook(num_blocks, max_active)
        for entry in self.entries.values():
            if entry.worker == worker:
                self._count(entry, 1)

    def worker_down(self, worker: int) -> None:
        """A worker is gone, and all that it held."""
        self._release((rid for rid, e in self.entries.items() if e.worker == worker), WORKER_GONE)
        self.books.pop(worker, None)

    def close(self, worker: int) -> None:
        """A worker takes nothing more; its entries stay until they end."""
        self.books.pop(worker, None)

    def processor_down(self, processor: int) -> None:
        """A processor is gone: nobody will tell the end of its requests."""
        gone = (rid for rid, e in self.entries.items() if e.processor == processor)
        self._release(gone, PROCESSOR_GONE)

    def reserve(self, request_id: str, entry: Entry) -> None:
        """Place a request; one that is known already is placed anew."""
        self.end(request_id)
        self.entries[request_id] = entry
        self._count(entry, 1)

    def _count(self, entry: Entry, sign: int) -> None:
        """Add an entry to its worker's sums, or take it away; workers may be unknown yet."""
        if (book := self.books.get(entry.worker)) is not None:
            book.active_requests += sign
            book.waiting_requests += sign * entry.waiting
            book.prefill_blocks += sign * entry.prefill_blocks
            book.decode_blocks += sign * entry.decode_blocks

    def first_token(self, request_id: str, now_ns: int) -> Entry | None:
        """The prefill part of a request's load is gone; its entry, unless that is no news."""
        entry = self.entries.get(request_id)
        if entry is None or not entry.waiting:
            return None
        self._count(entry, -1)
        entry.prefill_blocks, entry.waiting, entry.alive_ns = 0, False, now_ns
        self._count(entry, 1)
        return entry

    def end(self, request_id: str) -> Entry | None:
        """All of a request's load is gone; its entry, if there was one."""
        entry = self.entries.pop(request_id, None)
        if entry is not None:
            self._count(entry, -1)
        return entry

    def report(self, stats: WorkerStats) -> None:
        """Let what a worker says of its own load correct the sum of promises."""
        book = self.books.get(stats.worker)
        if book is None:
            return
        there = [
            (request_id, entry)
            for request_id, entry in self.entries.items()
            if entry.worker == stats.worker and entry.placed_ns < stats.sent_ns - SETTLE_NS
        ]
        if not stats.num_running_reqs and not stats.num_waiting_reqs:
            limit = stats.sent_ns - IDLE_GRACE_NS
            self._release((rid for rid, e in there if e.placed_ns < limit), IDLE_ENGINE)
            there = [(rid, e) for rid, e in there if e.placed_ns >= limit]
        promised = sum(entry.decode_blocks for _, entry in there)
        book.drift_blocks = round(stats.kv_cache_usage * book.num_blocks) - promised

    def expire(self, now_ns: int) -> None:
        """Let go of requests without a sign of life."""
        limit = now_ns - EXPIRY_NS
        self._release((rid for rid, e in self.entries.items() if e.alive_ns < limit), EXPIRED)

    def _release(self, request_ids: Iterable[str], reason: str) -> None:
        for request_id in list(request_ids):
            self.end(request_id)
            self.released[reason] += 1
