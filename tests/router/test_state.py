"""The router's state without a process: decisions, sessions, queue, events, resync."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from dynamo_cli.config import RouterConfig
from dynamo_cli.kv import hashes
from dynamo_cli.messages.request import EngineReady
from dynamo_cli.messages.routing import REASON_NO_WORKER, KvEvents, Measured, Placed, RouteQuery
from dynamo_cli.router.caches import GAP, SILENT_AFTER, START
from dynamo_cli.router.report import router_stats
from dynamo_cli.router.state import RouterState

BLOCK = 4


def ready(worker: int, seqs: int = 8) -> EngineReady:
    return EngineReady(worker, ["generate"], 1000, BLOCK, 100, seqs)


def state(policy: str = "kv", workers: int = 3, seqs: int = 8) -> RouterState:
    fresh = RouterState(RouterConfig(policy))
    for worker in range(workers):
        fresh.worker_up(ready(worker, seqs))
    return fresh


def chain(*blocks: int) -> list[int]:
    """Return the hashes of the prompt in which block `b` is b, b, b, b."""
    tokens = [block for block in blocks for _ in range(BLOCK)]
    return hashes.chain(hashes.pack_tokens(tokens), BLOCK)


def query(name: str, *blocks: int, extra: int = 1, **more: Any) -> RouteQuery:
    """Make a query for a prompt of full blocks and `extra` tokens of a last block."""
    tokens = len(blocks) * BLOCK + extra
    return RouteQuery(name, f"api-{name}", tokens, hashes.pack(chain(*blocks)), **more)


def events(
    worker: int,
    sequence: int,
    stored: list[int] = [],  # noqa: B006 - read only
    removed: list[int] = [],  # noqa: B006
    whole: bool = False,
) -> KvEvents:
    return KvEvents(worker, sequence, hashes.pack(stored), hashes.pack(removed), whole, 0, {})


def holding(router: RouterState, worker: int, *blocks: int) -> None:
    assert router.caches.apply(events(worker, 1, chain(*blocks), whole=True), 0)


def place(router: RouterState, asked: RouteQuery, now: int = 0) -> int | None:
    decision = router.decide(0, asked, now)
    assert decision is not None
    return decision.worker


def placed_in_turn(router: RouterState, *names: str) -> list[int | None]:
    return [place(router, query(name)) for name in names]


# -- decisions -------------------------------------------------------------------------------


def test_round_robin_takes_each_in_turn_and_a_new_one_at_once() -> None:
    router = state("round-robin")
    assert placed_in_turn(router, *"abcd") == [0, 1, 2, 0]
    router.worker_up(ready(7))
    assert placed_in_turn(router, "e") == [7]
    router.worker_down(1)
    assert placed_in_turn(router, "f", "g") == [2, 0]


@pytest.mark.parametrize("policy", ["least-loaded", "kv"])
def test_a_burst_sees_its_own_load(policy: str) -> None:
    router = state(policy)
    assert placed_in_turn(router, *"abcde") == [0, 1, 2, 0, 1]
    router.end("b")
    router.end("e")
    assert placed_in_turn(router, "f") == [1]


def test_siblings_stay_together_before_the_first_is_computed() -> None:
    router = state(workers=2)
    family = [*range(1, 60)]
    assert place(router, query("first", *family)) == 0
    assert place(router, query("stranger", *range(70, 90))) == 1
    # It goes behind the first, which computes the prefix, although the other queue is shorter.
    assert place(router, query("second", *family, 90)) == 0
    assert router.ledger.entries["second"].prefill_tokens < len(family)
    router.first_token("first", 0, now_ns=10)
    router.first_token("second", 0, now_ns=20)
    router.end("first")
    router.end("second")
    # No request computes the prefix any more, and no event says that it was stored.
    assert place(router, query("third", *family)) == 0
    assert router.ledger.entries["third"].prefill_tokens == len(family) * BLOCK + 1


def test_the_price_of_work_is_what_the_first_tokens_say() -> None:
    def time_of(seconds_per_token: float) -> float:
        router = state(workers=2)
        now = 0
        for number in range(200):
            name = str(number)
            asked = query(name, *range(100 * number, 100 * number + number % 40))
            place(router, asked, now)
            now += round(asked.prompt_tokens * seconds_per_token * 1e9)
            router.first_token(name, 0, now)
            router.end(name)
        holding(router, 1, 1)
        decision = router.decide(0, query("last", 1, 2, 3, 4), now)
        assert decision is not None
        return decision.candidates[0].terms["prefill_ms"]

    assert time_of(0.001) == pytest.approx(4 * BLOCK + 1, rel=0.2)
    assert time_of(0.1) == pytest.approx(100 * (4 * BLOCK + 1), rel=0.2)


def test_the_decision_says_why() -> None:
    router = state(workers=2)
    holding(router, 1, 1, 2, 3)
    decision = router.decide(0, query("a", 1, 2, 9), now_ns=7)
    assert decision is not None
    assert (decision.worker, decision.reason, decision.policy) == (1, "cost", "kv")
    assert (decision.prompt_tokens, decision.required_blocks, decision.overlap_blocks) == (13, 4, 2)
    assert (decision.request_id, decision.api_id, decision.decided_ns) == ("a", "api-a", 7)
    assert {one.worker: one.overlap_blocks for one in decision.candidates} == {0: 0, 1: 2}
    other, winner = sorted(decision.candidates, key=lambda one: one.worker)
    assert decision.margin == other.cost - winner.cost > 0
    assert winner.cost == sum(winner.terms.values())


def test_an_engine_computes_the_last_token_whatever_is_cached() -> None:
    router = state(workers=1)
    holding(router, 0, 1, 2, 3)
    whole = router.decide(0, query("a", 1, 2, 3, extra=0), 0)
    longer = router.decide(0, query("b", 1, 2, 3, extra=1), 0)
    assert whole is not None
    assert longer is not None
    assert (whole.overlap_blocks, longer.overlap_blocks) == (2, 3)


def test_without_workers_there_is_an_answer_but_no_load() -> None:
    router = state(workers=0)
    decision = router.decide(0, query("a", 1), 0)
    assert decision is not None
    assert (decision.worker, decision.reason) == (None, REASON_NO_WORKER)
    assert not router.ledger.entries


# -- the queue in front of full workers ------------------------------------------------------


def test_when_all_are_full_requests_wait_in_order_of_priority_then_arrival() -> None:
    router = state(workers=2, seqs=4)
    running = [
        f"r{number}" for number in range(10)
    ]  # two workers, each with a batch of four and a reserve of one
    assert all(router.decide(0, query(name), 0) for name in running)
    asked = [("late", 0), ("urgent", -1), ("later", 0), ("idle", 5)]
    for name, priority in asked:
        assert router.decide(3, query(name, priority=priority), 1000) is None
    assert router.released(2000) == []
    assert router.waiting_requests == 4
    router.end("later")  # its client left
    order = []
    for name in running[:3]:
        router.end(name)
        for processor, decision in router.released(5000):
            assert (processor, decision.waited_us) == (3, 4.0)
            order.append(decision.request_id)
    assert order == ["urgent", "late", "idle"]
    assert router.waiting_requests == 0


def test_a_newcomer_does_not_overtake_those_who_wait() -> None:
    router = state(workers=1, seqs=1)
    placed_in_turn(router, "a", "b")
    assert router.decide(0, query("c"), 0) is None
    router.end("a")
    assert router.decide(0, query("d"), 0) is None
    assert [decision.request_id for _, decision in router.released(0)] == ["c"]


def test_those_who_wait_hear_when_the_last_worker_is_gone() -> None:
    router = state(workers=1, seqs=1)
    placed_in_turn(router, "a", "b")
    assert router.decide(0, query("c"), 0) is None
    assert router.decide(1, query("d"), 0) is None
    router.processor_down(1)
    router.worker_down(0)
    assert [(d.request_id, d.worker) for _, d in router.released(0)] == [("c", None)]


# -- sessions --------------------------------------------------------------------------------


def test_a_session_stays_while_its_blocks_live() -> None:
    router = state(workers=2)
    holding(router, 0, 1, 2, 3)
    holding(router, 1, 1, 2, 3)
    first = place(router, query("a", 1, 2, 3, session="s"))
    for name in "bcd":  # load that would drive it away
        router.placed(0, Placed(name, first, 50, prefilled=True), 0)
    decision = router.decide(0, query("e", 1, 2, 3, 4, session="s"), 0)
    assert decision is not None
    assert (decision.worker, decision.reason) == (first, "session")
    assert place(router, query("other", 1, 2, 3)) == 1 - first


def test_a_session_leaves_when_its_blocks_are_gone_or_its_worker_is() -> None:
    router = state(workers=2, seqs=100)
    holding(router, 0, 1, 2, 3)
    assert place(router, query("a", 1, 2, 3, session="s")) == 0
    for name in "bcdefghi":
        router.placed(0, Placed(name, 0, 50, prefilled=True), 0)
    decision = router.decide(0, query("j", 1, 2, 3, session="s"), 0)
    assert decision is not None
    assert (decision.worker, decision.reason) == (0, "session")
    router.caches.apply(events(0, 2, removed=chain(1, 2, 3)[2:]), 0)
    assert place(router, query("k", 1, 2, 3, session="s")) == 1
    router.worker_down(1)
    assert place(router, query("l", 1, 2, 3, session="s")) == 0


# -- events ----------------------------------------------------------------------------------


def test_batches_are_applied_whole_and_in_order() -> None:
    router = state(workers=1)
    holding(router, 0, 1, 2)
    assert router.caches.apply(events(0, 2, chain(1, 2, 3)[2:], chain(1, 2)[1:]), 500)
    assert len(router.caches.index) == 2
    assert router.caches.lag_ns == 500
    assert router.caches.resyncs == Counter({START: 1})


def test_a_gap_asks_once_for_everything() -> None:
    router = state(workers=1)
    holding(router, 0, 1, 2)
    assert not router.caches.apply(events(0, 4, chain(7)), 0)
    assert router.caches.apply(events(0, 5, chain(8)), 0)  # the resync was requested already
    assert len(router.caches.index) == 2  # the old set stays in use
    assert router.caches.apply(events(0, 6, chain(7, 8), whole=True), 0)
    assert router.caches.apply(events(0, 7, chain(7, 8, 9)[2:]), 0)
    assert router.caches.index.blocks == Counter({0: 3})
    assert router.caches.resyncs == Counter({START: 1, GAP: 1})


def test_a_new_life_of_a_worker_holds_nothing_of_the_old() -> None:
    router = state(workers=2)
    holding(router, 1, 1, 2, 3)
    router.worker_down(1)
    assert len(router.caches.index) == 0
    router.worker_up(ready(1))
    decision = router.decide(0, query("a", 1, 2, 3), 0)
    assert decision is not None
    assert decision.reason == "no_overlap"
    holding(router, 1, 9)
    assert router.caches.resyncs == Counter({START: 2})


def test_silence_is_noticed_when_requests_finish_without_events() -> None:
    router = state(workers=2)
    for number in range(SILENT_AFTER):
        assert router.silent_workers() == []
        name = str(number)
        router.placed(0, Placed("x", 1, 3, prefilled=False), 0)  # shorter than a block
        router.first_token("x", 0, 0)
        router.end("x")
        assert place(router, query(name, 1, 2)) is not None
        where = router.ledger.entries[name].worker
        router.first_token(name, 0, 0)
        router.end(name)
        router.worker_down(1 - where)  # leaves one
    assert len(router.silent_workers()) == 1
    silent = router.silent_workers()[0]
    router.caches.apply(events(silent, 1, chain(1), whole=True), 0)
    assert router.silent_workers() == []


# -- predictions -----------------------------------------------------------------------------


def test_predictions_are_compared_with_measurements() -> None:
    router = state(workers=1)
    holding(router, 0, 1, 2, 3)
    place(router, query("a", 1, 2, 3))
    place(router, query("b", 1, 2))
    place(router, query("c"))
    assert router.first_token("a", 12, 0) == Measured("a", 12)
    assert router.first_token("a", 12, 0) is None
    assert router.first_token("b", 4, 0) == Measured("b", 4)
    assert router.first_token("c", 0, 0) == Measured("c", 0)
    stats = router_stats(router, 0)
    assert (stats.prompt_tokens, stats.predicted_tokens, stats.measured_tokens) == (23, 20, 16)
    assert stats.over_predicted_requests == 1


def test_what_the_router_did_not_predict_is_not_compared() -> None:
    router = state(workers=1)
    router.placed(0, Placed("a", 0, 100, prefilled=False), 0)
    assert router.first_token("a", 64, 0) is None
    assert router.prompt_tokens == 0


def test_an_announcement_of_a_known_request_is_a_sign_of_life() -> None:
    router = state(workers=2)
    where = place(router, query("a", 1, 2))
    before = router.ledger.entries["a"]
    router.placed(0, Placed("a", where, 9, prefilled=False), 77)
    assert router.ledger.entries["a"] is before
    assert before.alive_ns == 77
    router.placed(0, Placed("a", 1 - where, 9, prefilled=False), 78)
    assert router.ledger.entries["a"].worker == 1 - where


def test_the_report_has_everything() -> None:
    router = state(workers=2)
    holding(router, 0, 1, 2)
    place(router, query("a", 1, 2, 3))
    router.timed(15_000)
    router.timed(9_000_000)
    stats = router_stats(router, 5)
    assert (stats.policy, stats.decisions, stats.refused_sends) == ("kv", {0: 1}, 5)
    assert (stats.active_requests, stats.prefill_blocks) == ({0: 1, 1: 0}, {0: 2, 1: 0})
    assert (stats.decode_blocks, stats.index_blocks) == ({0: 4, 1: 0}, {0: 2, 1: 0})
    assert (stats.index_entries, stats.event_blocks) == (2, {"stored": 2})
    assert stats.decision_us == [0, 1, 0, 0, 0, 0, 0, 0, 0, 1]
    assert stats.decision_total_us == 9015
    assert stats.index_bytes > 0


# -- prefill workers -------------------------------------------------------------------------


def test_the_answer_names_the_prefill_worker_that_knows_most() -> None:
    router = state(workers=1)
    asked = query("a", 1, 2, 3)

    def named() -> int:
        decision = router.decide(0, asked, 0)
        assert decision is not None
        return decision.prefill_worker

    assert named() is None
    router.prefill_caches.apply(events(0, 1, chain(1), whole=True), 0)
    router.prefill_caches.apply(events(1, 1, chain(1, 2), whole=True), 0)
    assert named() == 1
    router.prefill_caches.worker_down(1)
    assert named() == 0
    assert len(router.caches.index) == 0
