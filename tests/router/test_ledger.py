"""The ledger: tables, and random orders of events compared with a recount."""

from __future__ import annotations

import dataclasses
import sys
from collections import Counter
from collections.abc import Callable
from types import FrameType
from typing import Any

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from dynamo_cli.messages.telemetry import WorkerStats
from dynamo_cli.router.ledger import (
    EXPIRED,
    EXPIRY_NS,
    IDLE_ENGINE,
    IDLE_GRACE_NS,
    PROCESSOR_GONE,
    WORKER_GONE,
    Entry,
    Ledger,
)
from dynamo_cli.router.time_estimator import Prices
from dynamo_cli.units import SECOND_NS


def entry(worker: int = 0, processor: int = 0, now: int = 0, **more: Any) -> Entry:
    plain = Entry(
        processor=processor,
        worker=worker,
        prefill_blocks=3,
        decode_blocks=10,
        full_blocks=9,
        prompt_tokens=160,
        predicted_tokens=None,
        placed_ns=now,
        alive_ns=now,
    )
    return dataclasses.replace(plain, **more)


def stats(worker: int = 0, running: int = 0, usage: float = 0.0, now: int = 0) -> WorkerStats:
    return WorkerStats(worker, running, 0, usage, 0, 0, 0, 0, 0, 0, 0, now)


def ledger(workers: int = 1) -> Ledger:
    fresh = Ledger()
    for worker in range(workers):
        fresh.worker_up(worker, num_blocks=100, max_active=4)
    return fresh


def sums(book: Ledger, worker: int = 0) -> tuple[int, int, int, int]:
    sums = book.books[worker]
    return (
        sums.active_requests,
        sums.waiting_requests,
        sums.prefill_blocks,
        sums.decode_blocks,
    )


def test_the_life_of_a_request() -> None:
    book = ledger()
    book.reserve("a", entry())
    book.reserve("b", entry())
    assert sums(book) == (2, 2, 6, 20)
    assert book.first_token("a", 5) is not None
    assert book.first_token("a", 6) is None
    assert sums(book) == (2, 1, 3, 20)
    assert book.end("a") is not None
    assert book.end("a") is None
    assert sums(book) == (1, 1, 3, 10)
    assert book.end("b") is not None
    assert sums(book) == (0, 0, 0, 0)


def test_a_request_that_is_placed_anew_counts_once() -> None:
    book = ledger(2)
    book.reserve("a", entry(0))
    book.reserve("a", entry(1))
    assert (sums(book, 0), sums(book, 1)) == ((0, 0, 0, 0), (1, 1, 3, 10))


def test_load_that_is_announced_before_its_worker_counts_when_it_comes() -> None:
    book = Ledger()
    book.reserve("a", entry(2))
    book.worker_up(2, 100, 4)
    assert sums(book, 2) == (1, 1, 3, 10)
    book.worker_up(2, 100, 4)  # its process has restarted
    assert sums(book, 2) == (0, 0, 0, 0)


def test_a_worker_is_full_at_its_limit() -> None:
    book = ledger()
    for name in "abcd":
        assert not book.books[0].full
        book.reserve(name, entry())
    assert book.books[0].full
    book.end("c")
    assert not book.books[0].full


def test_who_goes_takes_the_load_along() -> None:
    book = ledger(2)
    book.reserve("a", entry(0, processor=0))
    book.reserve("b", entry(1, processor=0))
    book.reserve("c", entry(1, processor=1))
    book.processor_down(0)
    assert (sums(book, 0), sums(book, 1)) == ((0, 0, 0, 0), (1, 1, 3, 10))
    book.worker_down(1)
    assert not book.entries
    assert book.released == Counter({PROCESSOR_GONE: 2, WORKER_GONE: 1})


def test_a_report_corrects_what_was_promised() -> None:
    book = ledger()
    book.reserve("a", entry(now=0))
    book.reserve("young", entry(now=10 * SECOND_NS))
    book.report(stats(running=1, usage=0.25, now=10 * SECOND_NS))
    # 25 blocks are in use, and 10 were promised. The young request is in no report yet, so its
    # blocks are added.
    assert book.books[0].occupied_blocks == 25 + 10
    book.report(stats(running=1, usage=0.01, now=10 * SECOND_NS))
    assert book.books[0].occupied_blocks == 1 + 10


def test_an_idle_engine_has_ended_what_is_old() -> None:
    book = ledger()
    book.reserve("lost", entry(now=0))
    book.reserve("new", entry(now=IDLE_GRACE_NS))
    book.report(stats(running=1, now=IDLE_GRACE_NS + 1))
    assert len(book.entries) == 2
    book.report(stats(running=0, now=IDLE_GRACE_NS + 1))
    assert set(book.entries) == {"new"}
    assert book.released == Counter({IDLE_ENGINE: 1})


def test_an_engine_whose_prompts_are_away_is_not_idle() -> None:
    book = ledger()
    book.reserve("away", entry(now=0))
    told = stats(running=0, now=IDLE_GRACE_NS + 1)
    book.report(msgspec.structs.replace(told, num_away_reqs=1))
    assert set(book.entries) == {"away"}
    book.report(told)
    assert not book.entries


def test_a_closed_worker_leaves_no_promise_to_the_next_of_its_index() -> None:
    book = ledger()
    book.reserve("a", entry(marks=(1, 2)))
    book.reserve("b", entry(marks=(1, 2)))
    assert book.promised.leading((1, 2)) == {0: 2}
    book.close(0)
    assert not book.promised.leading((1, 2))
    book.end("a")
    assert set(book.entries) == {"b"}
    book.worker_down(0)
    book.worker_up(0, 100, 4)
    assert not len(book.promised)
    assert sums(book) == (0, 0, 0, 0)


def lines_of(work: Callable[[], None]) -> int:
    """Count the executed lines of Python: a measure of the cost that is the same on any machine."""
    seen = 0

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal seen
        seen += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return seen


def test_a_report_costs_the_same_however_many_requests_there_are() -> None:
    def cost(each: int) -> int:
        book, now = ledger(8), 100 * SECOND_NS
        for number in range(8 * each):
            book.reserve(str(number), entry(number % 8, now=50 * SECOND_NS + number))
        book.reserve("young", entry(0, now=now))
        lines = lines_of(lambda: book.report(stats(running=9, usage=0.9, now=now)))
        assert book.books[0].drift_blocks == 90 - 10 * each  # the young one is in no report
        return lines

    assert cost(500) == cost(1)


def test_without_a_sign_of_life_a_request_expires() -> None:
    book = ledger()
    book.reserve("a", entry(now=0))
    book.reserve("b", entry(now=0))
    book.first_token("b", SECOND_NS)
    book.expire(EXPIRY_NS)
    assert set(book.entries) == {"a", "b"}
    book.expire(EXPIRY_NS + 1)
    assert set(book.entries) == {"b"}
    book.expire(EXPIRY_NS + SECOND_NS + 1)
    assert sums(book) == (0, 0, 0, 0)
    assert book.released == Counter({EXPIRED: 2})


# -- how long a prefill would have to wait ------------------------------------------------------

PRICES = Prices(request_s=1.0, token_s=0.1, pair_s=0.0, held_s=20.0)


def wait_s(book: Ledger, now_s: float, blocks: int = 0) -> float:
    return book.books[0].wait_s(blocks, PRICES, round(now_s * SECOND_NS))


def test_a_prefill_waits_for_those_before_it() -> None:
    book = ledger()
    assert wait_s(book, 0) == 0
    book.reserve("a", entry(now=0, prefill_tokens=10))  # takes two seconds
    book.reserve("b", entry(now=0, prefill_tokens=20))  # three
    assert wait_s(book, 0) == 5
    assert wait_s(book, 1.5) == 3.5
    assert wait_s(book, 9) == 3  # the first is late, and the second has not begun
    book.first_token("a", 10 * SECOND_NS)
    assert wait_s(book, 10) == 3
    assert wait_s(book, 12) == 1
    book.end("b")
    assert wait_s(book, 12) == 0


def test_the_time_of_a_prefill_is_counted_from_the_one_before() -> None:
    book = ledger()
    first, second, third = (entry(now=at * SECOND_NS) for at in (0, 1, 9))
    for name, one in (("a", first), ("b", second), ("c", third)):
        book.reserve(name, one)
    book.first_token("a", 4 * SECOND_NS)
    book.first_token("b", 7 * SECOND_NS)
    book.first_token("c", 11 * SECOND_NS)
    assert [one.prefill_ns // SECOND_NS for one in (first, second, third)] == [4, 3, 2]


def test_a_prefill_waits_for_room() -> None:
    book = ledger()
    book.reserve("a", entry(decode_blocks=70))
    book.first_token("a", 0)
    assert wait_s(book, 0, blocks=30) == 0
    assert wait_s(book, 0, blocks=40) == 20 * 10 / 100
    book.reserve("b", entry(now=SECOND_NS, decode_blocks=25))
    # The engine reports that "a" has grown and that "b" has no room.
    said = stats(running=1, usage=0.8, now=2 * SECOND_NS)
    book.report(msgspec.structs.replace(said, num_waiting_reqs=1))
    assert book.books[0].queued_blocks == 25
    assert wait_s(book, 1 + 3.5, blocks=5) == 20 * 10 / 100


def report(at_s: float, running: int, steps: int, **more: int) -> WorkerStats:
    plain = stats(running=running, usage=0.1, now=round(at_s * SECOND_NS))
    return msgspec.structs.replace(plain, steps=steps, **more)


def test_only_quiet_reports_say_how_long_steps_take() -> None:
    def decode_slowdown_s(*reports: WorkerStats) -> float:
        book = ledger()
        for one in reports:
            book.report(one)
        return book.estimator.prices.decode_slowdown_s

    quiet = [report(at, 10 * at, 100 * at) for at in range(1, 6)]
    unmeasured = ledger().estimator.prices.decode_slowdown_s
    assert decode_slowdown_s(quiet[0]) == unmeasured
    assert decode_slowdown_s(*quiet) != unmeasured
    for busy in ("prefix_cache_queries_tokens", "prompt_tokens"):
        loud = [
            msgspec.structs.replace(one, **{busy: 9 * place}) for place, one in enumerate(quiet)
        ]
        assert decode_slowdown_s(*loud) == unmeasured
    idle = [msgspec.structs.replace(one, num_running_reqs=0) for one in quiet]
    assert decode_slowdown_s(*idle) == unmeasured


class LedgerMachine(RuleBasedStateMachine):
    """Compares the sums with a recount of the entries, and the entries with a plain dict."""

    names = st.sampled_from("abcdef")

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger()
        self.model: dict[str, dict[str, int]] = {}
        self.up: set[int] = set()

    @rule(
        name=names,
        worker=st.integers(0, 2),
        processor=st.integers(0, 1),
        prefill=st.integers(0, 9),
    )
    def reserve(self, name: str, worker: int, processor: int, prefill: int) -> None:
        work = {"prefill_blocks": prefill, "prefill_tokens": prefill, "marks": (10, 100 + prefill)}
        self.ledger.reserve(name, entry(worker, processor, **work))
        self.model[name] = {"worker": worker, "processor": processor, "prefill": prefill, "wait": 1}

    @rule(name=names)
    def first_token(self, name: str) -> None:
        self.ledger.first_token(name, 0)
        if name in self.model:
            self.model[name] |= {"prefill": 0, "wait": 0}

    @rule(name=names)
    def end(self, name: str) -> None:
        assert (self.ledger.end(name) is not None) == (self.model.pop(name, None) is not None)

    @rule(worker=st.integers(0, 2))
    def worker_up(self, worker: int) -> None:
        if worker in self.up:
            self._without("worker", worker)
        self.up.add(worker)
        self.ledger.worker_up(worker, 100, 4)

    @rule(worker=st.integers(0, 2))
    def worker_down(self, worker: int) -> None:
        self.up.discard(worker)
        self._without("worker", worker)
        self.ledger.worker_down(worker)

    @rule(worker=st.integers(0, 2))
    def close(self, worker: int) -> None:
        self.up.discard(worker)
        self.ledger.close(worker)

    @rule(processor=st.integers(0, 1))
    def processor_down(self, processor: int) -> None:
        self._without("processor", processor)
        self.ledger.processor_down(processor)

    def _without(self, key: str, value: int) -> None:
        self.model = {name: one for name, one in self.model.items() if one[key] != value}

    @invariant()
    def agrees(self) -> None:
        assert set(self.ledger.entries) == set(self.model)
        assert set(self.ledger.books) == self.up
        for worker in {0, 1, 2} - self.up:
            assert worker not in self.ledger.promised.leading((10,))
            assert worker not in self.ledger.held.leading((10,))
        for worker in self.up:
            here = [one for one in self.model.values() if one["worker"] == worker]
            assert sums(self.ledger, worker) == (
                len(here),
                sum(one["wait"] for one in here),
                sum(one["prefill"] for one in here),
                10 * len(here),
            )
            book = self.ledger.books[worker]
            waiting = {
                name for name, one in self.model.items() if one["worker"] == worker and one["wait"]
            }
            assert set(book.waiting) == waiting
            assert book.prefill_tokens == sum(one["prefill"] for one in here)
            assert (worker in self.ledger.promised.leading((10,))) == bool(waiting)
            assert (worker in self.ledger.held.leading((10,))) == (len(here) > len(waiting))


LedgerMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=30)
TestLedger = LedgerMachine.TestCase
