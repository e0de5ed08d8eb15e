"""Keeps the load that the router has placed on each worker. Pure: times are arguments, nanoseconds.

The blocks of a request are reserved when it is placed, not when its worker reports them. So, when a
burst comes, the load of each request is known before the next one is placed. The worker's reports
correct the sum of the reserved blocks, since answers grow and requests share prefixes.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice, takewhile

from dynamo_cli.kv.index import bits
from dynamo_cli.messages.telemetry import WorkerStats
from dynamo_cli.router.promised import Promised
from dynamo_cli.router.shortlist import WorkerRanking
from dynamo_cli.router.time_estimator import Prices, TimeEstimator
from dynamo_cli.units import MS_NS, SECOND_NS

SETTLE_NS = 20 * MS_NS
"""Time that a request may need to reach its engine. A report of load does not include requests that
were placed within this time before it."""

IDLE_GRACE_NS = 2 * SECOND_NS
"""If an engine reports that it is idle, all requests placed longer ago than this have ended."""

TIGHT_USAGE = 0.8
"""Only if requests hold more than this share of its cache, an engine is taken to lack room for more
requests. Below it, requests wait because the batch is full, and then nothing is evicted."""

EXPIRY_NS = 90 * SECOND_NS
"""A request without a sign of life for this long is released; processors send one every 20 s."""

IDLE_ENGINE, EXPIRED = "idle_engine", "expired"
WORKER_GONE, PROCESSOR_GONE = "worker_gone", "processor_gone"


@dataclass(slots=True)
class Entry:
    """A placed request.

    Attributes:
        prefill_blocks: blocks of its prompt that its worker has to compute.
        decode_blocks: blocks that its prompt occupies.
        full_blocks: full blocks of its prompt, which the worker's events should show.
        prompt_tokens: length of the prompt.
        predicted_tokens: prompt tokens expected in the worker's cache or the host cache; None if
            there is no estimate.
        placed_ns: when it was placed.
        alive_ns: last sign of life.
        prefill_tokens, prefill_pairs: prompt tokens that its worker has to compute, and pairs of
            such a token and one before it, which is what attention costs; see `time_estimator`.
        load_ns: estimated time to load what the host cache has of it, nanoseconds.
        prefill_ns: duration of the prefill, once the first token has come.
        marks: some of the sequence hashes of its prompt, see `promised.marks`.
        waiting: whether its first token has not come yet.
    """

    processor: int
    worker: int
    prefill_blocks: int
    decode_blocks: int
    full_blocks: int
    prompt_tokens: int
    predicted_tokens: int | None
    placed_ns: int
    alive_ns: int
    prefill_tokens: int = 0
    prefill_pairs: float = 0.0
    load_ns: int = 0
    prefill_ns: int = 0
    marks: Sequence[int] = ()
    waiting: bool = True


@dataclass(slots=True)
class WorkerBook:
    """Sums over the entries of one worker.

    Attributes:
        num_blocks: size of its KV cache, in blocks.
        max_active: number of active requests at which it takes no more; 0 means no limit.
        active_requests: requests that were placed there and have not ended.
        waiting: entries without a first token, in the order in which they were placed.
        prefill_blocks, prefill_tokens, prefill_pairs: sums over `waiting`.
        decode_blocks: sum over all entries.
        drift_blocks: blocks that the last report showed beyond `decode_blocks`; may be negative.
        last_used: number of the decision that chose it last.
        first_token_ns: when its last first token came.
        report: its last report.
        queued_blocks: blocks of the requests that waited in its engine at that report, taken to be
            the youngest.
    """

    num_blocks: int = 0
    max_active: int = 0
    active_requests: int = 0
    waiting: dict[str, Entry] = field(default_factory=dict)
    prefill_blocks: int = 0
    prefill_tokens: int = 0
    prefill_pairs: float = 0.0
    decode_blocks: int = 0
    drift_blocks: int = 0
    last_used: int = 0
    first_token_ns: int = 0
    report: WorkerStats | None = None
    queued_blocks: int = 0

    def evicts_before(self, blocks: int) -> bool:
        """Whether the engine will evict every block that no request uses before a new one begins.

        This is so when the engine lacks room for the new request. Then it waits, and the requests
        before it take all blocks that become free.

        Args:
            blocks: blocks that the new request needs besides those that it finds in the cache.
        """
        tight = self.report is not None and self.report.kv_cache_usage > TIGHT_USAGE
        return tight and self._lacking(blocks) > 0

    def _lacking(self, blocks: int) -> int:
        """Number of blocks that are missing for the queued requests and `blocks` more blocks; at
        most 0 if there is room for all."""
        return self.occupied_blocks + self.queued_blocks + blocks - self.num_blocks

    @property
    def full(self) -> bool:
        """Whether the worker takes no more requests now."""
        return 0 < self.max_active <= self.active_requests

    @property
    def occupied_blocks(self) -> int:
        """Blocks in use, as estimated from the reserved blocks and the last report."""
        return max(self.decode_blocks + self.drift_blocks, 0)

    @property
    def waiting_requests(self) -> int:
        """Requests without a first token."""
        return len(self.waiting)

    def prefill_began_ns(self, entry: Entry) -> int:
        """When the prefill of the first waiting entry began, or will begin; CLOCK_MONOTONIC.

        The estimate assumes that an engine computes one prompt after the other, and loads blocks
        from the host cache meanwhile. So the prefill begins when its blocks are loaded or with the
        first token of the request before it, whichever is later.
        """
        return max(entry.placed_ns + entry.load_ns, self.first_token_ns)

    def wait_s(self, blocks: int, prices: Prices, now_ns: int) -> float:
        """Estimate how long the prefill of a new request must wait, seconds.

        Args:
            blocks: blocks that the request needs besides those that it finds in the cache.
            prices: current estimates of times.
            now_ns: current time.
        """
        return max(self._backlog_s(prices, now_ns), self._room_s(blocks, prices))

    def _backlog_s(self, prices: Prices, now_ns: int) -> float:
        """Time until all waiting requests have their first token; the first is in progress."""
        if not self.waiting:
            return 0.0
        head = next(iter(self.waiting.values()))
        whole_s = prices.prefill_s(1, head.prefill_tokens, head.prefill_pairs)
        done_s = min((now_ns - self.prefill_began_ns(head)) / SECOND_NS, whole_s)
        all_s = prices.prefill_s(len(self.waiting), self.prefill_tokens, self.prefill_pairs)
        return all_s - done_s

    def _room_s(self, blocks: int, prices: Prices) -> float:
        """Time until the queued requests and `blocks` more blocks have room, seconds."""
        lacking = self._lacking(blocks)
        if lacking <= 0 or not self.num_blocks:
            return 0.0
        return lacking / self.num_blocks * prices.held_s


@dataclass(slots=True)
class Ledger:
    """All placed requests.

    Attributes:
        entries: by request id.
        books: by worker index, for the workers that can take requests.
        released: number of entries that were removed although nobody reported the end of their
            request, by reason.
        promised: prefixes of waiting requests, which workers will have computed.
        held: prefixes of requests that have their first token, which workers cannot evict.
        estimator: measured times.
        ranking: the workers that have room, by their load.
    """

    entries: dict[str, Entry] = field(default_factory=dict)
    books: dict[int, WorkerBook] = field(default_factory=dict)
    released: Counter[str] = field(default_factory=Counter)
    promised: Promised = field(default_factory=Promised)
    held: Promised = field(default_factory=Promised)
    estimator: TimeEstimator = field(default_factory=TimeEstimator)
    ranking: WorkerRanking = field(default_factory=WorkerRanking)
    _busy_books: int = 0
    _placed: defaultdict[int, dict[str, Entry]] = field(default_factory=lambda: defaultdict(dict))
    """Entries by worker, in the order in which they were placed; also of workers without a book."""

    def worker_up(self, worker: int, num_blocks: int, max_active: int) -> None:
        """Open the book of a worker that has started, or that this router did not know.

        In the second case, the worker may have entries already: processors tell a router that was
        started again what runs (`Placed`).
        """
        if worker in self.books:
            self.worker_down(worker)
        self.books[worker] = WorkerBook(num_blocks, max_active)
        self.ranking.changed.add(worker)
        for request_id, entry in self._placed[worker].items():
            self._count(request_id, entry, 1)

    def worker_down(self, worker: int) -> None:
        """Release all entries of a worker whose process ended."""
        self._release(self._placed[worker], WORKER_GONE)
        self._drop_book(worker)
        self._placed.pop(worker)

    def close(self, worker: int) -> None:
        """Close the book of a worker that takes no more requests.

        Its entries stay until their requests end.
        """
        for request_id, entry in self._placed[worker].items():
            # This also takes their prefixes out of `promised` and `held`: nobody can use them now.
            self._count(request_id, entry, -1)
        self._drop_book(worker)

    def _drop_book(self, worker: int) -> None:
        self.books.pop(worker, None)
        self.ranking.changed.add(worker)

    def processor_down(self, processor: int) -> None:
        """Release the requests of a processor that ended, because nobody will report their end."""
        gone = (rid for rid, e in self.entries.items() if e.processor == processor)
        self._release(gone, PROCESSOR_GONE)

    def reserve(self, request_id: str, entry: Entry) -> None:
        """Add the entry of a placed request; it replaces an older entry of the same request."""
        self.end(request_id)
        self._note_busy(entry.placed_ns)
        self.entries[request_id] = self._placed[entry.worker][request_id] = entry
        self._count(request_id, entry, 1)

    def _note_busy(self, now_ns: int) -> None:
        """Tell the estimator which share of the workers has had prefills to do until now."""
        if self.books:
            self.estimator.busy(self._busy_books / len(self.books), now_ns)

    def _count(self, request_id: str, entry: Entry, sign: int) -> None:
        """Add an entry to its worker's sums (`sign` 1) or subtract it (-1), if there is a book."""
        if (book := self.books.get(entry.worker)) is None:
            return
        self.ranking.changed.add(entry.worker)
        book.active_requests += sign
        book.decode_blocks += sign * entry.decode_blocks
        prefixes = self.promised if entry.waiting else self.held
        (prefixes.add if sign > 0 else prefixes.remove)(entry.worker, entry.marks)
        if not entry.waiting:
            return
        book.prefill_blocks += sign * entry.prefill_blocks
        book.prefill_tokens += sign * entry.prefill_tokens
        book.prefill_pairs += sign * entry.prefill_pairs
        if sign > 0:
            self._busy_books += not book.waiting
            book.waiting[request_id] = entry
        else:
            del book.waiting[request_id]
            self._busy_books -= not book.waiting

    def remaining(
        self, cached: dict[int, int], prompt_blocks: int, prompt: Sequence[int]
    ) -> dict[int, int]:
        """Estimate what of a prompt will still be cached when a worker begins to compute it.

        Args:
            cached: by worker, the leading blocks that are in its cache now.
            prompt_blocks: blocks of the prompt.
            prompt: marks of the prompt.
        """
        tight = [
            worker
            for worker, blocks in cached.items()
            if (book := self.books.get(worker)) and book.evicts_before(prompt_blocks - blocks)
        ]
        if not tight:
            return cached
        among = bits(tight)
        promised = self.promised.leading(prompt, among)
        held = self.held.leading(prompt, among)
        used = {worker: max(promised.get(worker, 0), held.get(worker, 0)) for worker in tight}
        return cached | {worker: min(cached[worker], used[worker]) for worker in tight}

    def first_token(self, request_id: str, now_ns: int) -> Entry | None:
        """Note a request's first token, which ends its prefill load.

        Returns:
            its entry; None if it is unknown or had its first token before.
        """
        entry = self.entries.get(request_id)
        if entry is None or not entry.waiting:
            return None
        self._note_busy(now_ns)
        self._count(request_id, entry, -1)
        entry.waiting, entry.alive_ns = False, now_ns
        if (book := self.books.get(entry.worker)) is not None:
            entry.prefill_ns = max(now_ns - book.prefill_began_ns(entry), 0)
            book.first_token_ns = now_ns
        self._count(request_id, entry, 1)
        return entry

    def end(self, request_id: str) -> Entry | None:
        """Remove a request and return its entry, if there was one."""
        entry = self.entries.pop(request_id, None)
        if entry is not None:
            del self._placed[entry.worker][request_id]
            self._count(request_id, entry, -1)
            if not entry.waiting:
                self.estimator.answered()
        return entry

    def nobody_waits(self) -> bool:
        """Whether all requests on open workers have had their first token."""
        return not self._busy_books

    def report(self, stats: WorkerStats) -> None:
        """Correct the sum of the reserved blocks by the load that a worker reports."""
        book = self.books.get(stats.worker)
        if book is None:
            return
        self._measure_steps(book, stats)
        queued = islice(reversed(book.waiting.values()), stats.num_waiting_reqs)
        book.queued_blocks = sum(entry.decode_blocks for entry in queued)
        if stats.idle:
            limit = stats.sent_ns - IDLE_GRACE_NS
            placed = self._placed[stats.worker].items()
            old = takewhile(lambda pair: pair[1].placed_ns < limit, placed)
            self._release((request_id for request_id, _ in old), IDLE_ENGINE)
        promised = book.decode_blocks - self._on_its_way(stats)
        book.drift_blocks = round(stats.kv_cache_usage * book.num_blocks) - promised

    def _on_its_way(self, stats: WorkerStats) -> int:
        """Blocks of the requests that are too young to be in this report."""
        limit = stats.sent_ns - SETTLE_NS
        youngest_first = reversed(self._placed[stats.worker].values())
        young = takewhile(lambda entry: entry.placed_ns >= limit, youngest_first)
        return sum(entry.decode_blocks for entry in young)

    def _measure_steps(self, book: WorkerBook, stats: WorkerStats) -> None:
        """Measure output tokens and the time of a decode step from the last two reports.

        A step is measured only if no prompt was in progress between the two reports.
        """
        last, book.report = book.report, stats
        if last is None:
            return
        took_s = (stats.sent_ns - last.sent_ns) / SECOND_NS
        # The engine was not idle in between: it reports at once when it becomes idle.
        running = min(stats.num_running_reqs, last.num_running_reqs)
        self.estimator.ran(stats.output_tokens - last.output_tokens, running * took_s)
        begun = stats.prefix_cache_queries_tokens > last.prefix_cache_queries_tokens
        done = stats.prompt_tokens > last.prompt_tokens
        quiet = not (begun or done or book.waiting or last.num_waiting_reqs)
        if quiet and running and stats.steps > last.steps:
            self.estimator.stepped(running, took_s / (stats.steps - last.steps))

    def expire(self, now_ns: int) -> None:
        """Release requests that have had no sign of life for `EXPIRY_NS`."""
        limit = now_ns - EXPIRY_NS
        self._release((rid for rid, e in self.entries.items() if e.alive_ns < limit), EXPIRED)

    def _release(self, request_ids: Iterable[str], reason: str) -> None:
        for request_id in list(request_ids):
            self.end(request_id)
            self.released[reason] += 1
