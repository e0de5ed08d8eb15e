"""The load that was promised to each worker. Pure: the clock is an argument, nanoseconds.

A request's blocks are reserved when it is placed, not when its worker reports them, so that a burst
sees its own load. What the worker reports corrects the sum: answers grow, prefixes are shared.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice, takewhile

from dynamo_cli.messages.telemetry import WorkerStats
from dynamo_cli.router.pace import Pace, Prices
from dynamo_cli.router.promised import Promised

SECOND_NS = 1_000_000_000
SETTLE_NS = 20_000_000
"""A request takes up to this long to its engine: younger ones are in no report."""

IDLE_GRACE_NS = 2 * SECOND_NS
"""An idle engine has surely ended what was placed this long ago."""

EXPIRY_NS = 90 * SECOND_NS
"""Without a sign of life for so long, a request is lost; processors give one every 20 s."""

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
            None when nobody predicted any.
        prefill_tokens, prefill_pairs: that its worker has to compute, see `pace`.
        prefill_ns: that this took, once it has its first token.
        marks: of its prompt, see `promised`.
        waiting: its first token has not come.
        alive_ns: last sign of life.
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
    prefill_ns: int = 0
    marks: Sequence[int] = ()
    waiting: bool = True


@dataclass(slots=True)
class WorkerBook:
    """Sums over the entries of one worker.

    Attributes:
        waiting: those without a first token, in the order in which they were placed.
        drift_blocks: what its last report added to `decode_blocks`.
        first_token_ns: when it last gave one.
        report: its last one.
        queued_blocks: of the requests that then had no room in its cache.
        num_blocks: of its KV cache.
        max_active: requests above which it takes no more; 0 is no limit.
        last_used: number of the decision that chose it last.
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

    @property
    def full(self) -> bool:
        return 0 < self.max_active <= self.active_requests

    @property
    def occupied_blocks(self) -> int:
        """Blocks in use, as far as promises and the last report tell."""
        return max(self.decode_blocks + self.drift_blocks, 0)

    @property
    def waiting_requests(self) -> int:
        return len(self.waiting)

    def prefill_began_ns(self, entry: Entry) -> int:
        """When the first of those that wait was begun: prompts are computed one after the other."""
        return max(entry.placed_ns, self.first_token_ns)

    def wait_s(self, blocks: int, prices: Prices, now_ns: int) -> float:
        """Until the prefill of a request that needs so many free blocks can begin."""
        return max(self._backlog_s(prices, now_ns), self._room_s(blocks, prices))

    def _backlog_s(self, prices: Prices, now_ns: int) -> float:
        """Until all that wait have their first token; the first of them is under way."""
        if not self.waiting:
            return 0.0
        head = next(iter(self.waiting.values()))
        whole_s = prices.prefill_s(1, head.prefill_tokens, head.prefill_pairs)
        done_s = min((now_ns - self.prefill_began_ns(head)) / SECOND_NS, whole_s)
        all_s = prices.prefill_s(len(self.waiting), self.prefill_tokens, self.prefill_pairs)
        return all_s - done_s

    def _room_s(self, blocks: int, prices: Prices) -> float:
        """Until so many blocks are free, after those that others wait for."""
        lacking = self.occupied_blocks + self.queued_blocks + blocks - self.num_blocks
        if lacking <= 0 or not self.num_blocks:
            return 0.0
        return lacking / self.num_blocks * prices.held_s


@dataclass(slots=True)
class Ledger:
    """All placed requests.

    Attributes:
        entries: by request id.
        books: by worker index: those that can take requests.
        released: entries that ended otherwise than by their request's end, by reason.
        promised: prefixes that workers will have computed.
        pace: what that takes them.
    """

    entries: dict[str, Entry] = field(default_factory=dict)
    books: dict[int, WorkerBook] = field(default_factory=dict)
    released: Counter[str] = field(default_factory=Counter)
    promised: Promised = field(default_factory=Promised)
    pace: Pace = field(default_factory=Pace)
    _placed: defaultdict[int, dict[str, Entry]] = field(default_factory=lambda: defaultdict(dict))
    """By worker, whether it has a book or not, in the order in which they were placed."""

    def worker_up(self, worker: int, num_blocks: int, max_active: int) -> None:
        """A worker begins a life, or is heard of for the first time and may have load already."""
        if worker in self.books:
            self.worker_down(worker)
        self.books[worker] = WorkerBook(num_blocks, max_active)
        for request_id, entry in self._placed[worker].items():
            self._count(request_id, entry, 1)

    def worker_down(self, worker: int) -> None:
        """A worker is gone, and all that it held."""
        self._release(self._placed[worker], WORKER_GONE)
        self.books.pop(worker, None)
        self._placed.pop(worker)

    def close(self, worker: int) -> None:
        """A worker takes nothing more; its entries stay until they end."""
        for request_id, entry in self._placed[worker].items():
            self._count(request_id, entry, -1)  # its next life has none of what it promised
        self.books.pop(worker, None)

    def processor_down(self, processor: int) -> None:
        """A processor is gone: nobody will tell the end of its requests."""
        gone = (rid for rid, e in self.entries.items() if e.processor == processor)
        self._release(gone, PROCESSOR_GONE)

    def reserve(self, request_id: str, entry: Entry) -> None:
        """Place a request; one that is known already is placed anew."""
        self.end(request_id)
        self._note_busy(entry.placed_ns)
        self.entries[request_id] = self._placed[entry.worker][request_id] = entry
        self._count(request_id, entry, 1)

    def _note_busy(self, now_ns: int) -> None:
        """Before it changes: which share of the workers has prefills to do."""
        if self.books:
            busy = sum(1 for book in self.books.values() if book.waiting)
            self.pace.busy(busy / len(self.books), now_ns)

    def _count(self, request_id: str, entry: Entry, sign: int) -> None:
        """Add an entry to its worker's sums, or take it away; workers may be unknown yet."""
        if (book := self.books.get(entry.worker)) is None:
            return
        book.active_requests += sign
        book.decode_blocks += sign * entry.decode_blocks
        if not entry.waiting:
            return
        book.prefill_blocks += sign * entry.prefill_blocks
        book.prefill_tokens += sign * entry.prefill_tokens
        book.prefill_pairs += sign * entry.prefill_pairs
        if sign > 0:
            book.waiting[request_id] = entry
            self.promised.add(entry.worker, entry.marks)
        else:
            del book.waiting[request_id]
            self.promised.remove(entry.worker, entry.marks)

    def first_token(self, request_id: str, now_ns: int) -> Entry | None:
        """The prefill part of a request's load is gone; its entry, unless that is no news."""
        entry = self.entries.get(request_id)
        if entry is None or not entry.waiting:
            return None
        self._note_busy(now_ns)
        self._count(request_id, entry, -1)
        entry.waiting, entry.alive_ns = False, now_ns
        if (book := self.books.get(entry.worker)) is not None:
            entry.prefill_ns = now_ns - book.prefill_began_ns(entry)
            book.first_token_ns = now_ns
        self._count(request_id, entry, 1)
        return entry

    def end(self, request_id: str) -> Entry | None:
        """All of a request's load is gone; its entry, if there was one."""
        entry = self.entries.pop(request_id, None)
        if entry is not None:
            del self._placed[entry.worker][request_id]
            self._count(request_id, entry, -1)
            if not entry.waiting:
                self.pace.answered()
        return entry

    def nobody_waits(self) -> bool:
        """All that were placed on workers that take requests have their first token."""
        return not any(book.waiting for book in self.books.values())

    def report(self, stats: WorkerStats) -> None:
        """Let what a worker says of its own load correct the sum of promises."""
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
        """Blocks of the requests that are too young to be in a report. They are the last ones."""
        limit = stats.sent_ns - SETTLE_NS
        youngest_first = reversed(self._placed[stats.worker].values())
        young = takewhile(lambda entry: entry.placed_ns >= limit, youngest_first)
        return sum(entry.decode_blocks for entry in young)

    def _measure_steps(self, book: WorkerBook, stats: WorkerStats) -> None:
        """How long steps take that only decode: when no prompt was about since the last report."""
        last, book.report = book.report, stats
        if last is None:
            return
        took_s = (stats.sent_ns - last.sent_ns) / SECOND_NS
        # Were it idle between the reports, there would be one that says so.
        running = min(stats.num_running_reqs, last.num_running_reqs)
        self.pace.ran(stats.output_tokens - last.output_tokens, running * took_s)
        begun = stats.prefix_cache_queries_tokens > last.prefix_cache_queries_tokens
        done = stats.prompt_tokens > last.prompt_tokens
        quiet = not (begun or done or book.waiting or last.num_waiting_reqs)
        if quiet and running and stats.steps > last.steps:
            self.pace.stepped(running, took_s / (stats.steps - last.steps))

    def expire(self, now_ns: int) -> None:
        """Let go of requests without a sign of life."""
        limit = now_ns - EXPIRY_NS
        self._release((rid for rid, e in self.entries.items() if e.alive_ns < limit), EXPIRED)

    def _release(self, request_ids: Iterable[str], reason: str) -> None:
        for request_id in list(request_ids):
            self.end(request_id)
            self.released[reason] += 1
