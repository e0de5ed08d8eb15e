"""Requests that have lost their worker: not back to it, before all others, and compared with
nothing that was predicted."""

from __future__ import annotations

from dynamo_cli.messages.routing import REASON_NO_WORKER

from .test_state import holding, place, query, state

DIED = {"moved": "died", "moved_from": 0, "output_tokens": 10}


def test_an_excluded_worker_gets_nothing_whatever_it_holds() -> None:
    router = state(workers=2)
    holding(router, 0, 1, 2, 3)
    assert place(router, query("a", 1, 2, 3)) == 0
    assert place(router, query("b", 1, 2, 3, excluded=(0,))) == 1


def test_when_all_are_excluded_it_is_answered_and_does_not_wait() -> None:
    router = state(workers=2)
    decision = router.decide(0, query("a", excluded=(0, 1)), 0)
    assert decision is not None
    assert (decision.worker, decision.reason) == (None, REASON_NO_WORKER)


def test_one_that_waits_is_answered_when_only_excluded_workers_are_left() -> None:
    router = state(workers=2, seqs=1)
    for name in "abcd":
        place(router, query(name))
    assert router.decide(0, query("e", excluded=(0,)), 0) is None
    router.worker_down(1)
    ((_, decision),) = router.released(0)
    assert (decision.request_id, decision.worker) == ("e", None)


def test_a_request_that_moves_goes_before_those_that_wait() -> None:
    router = state(workers=1, seqs=1)
    for name in "ab":
        assert place(router, query(name)) == 0
    assert router.decide(0, query("urgent", priority=-5), 0) is None
    assert router.decide(0, query("moved", **DIED), 0) is None
    router.end("a")
    router.end("b")
    assert [decision.request_id for _, decision in router.released(0)] == ["moved", "urgent"]


def test_it_is_due_before_those_that_its_engine_has() -> None:
    router = state(workers=1)
    first = router.decide(0, query("first"), 10**10)
    moved = router.decide(0, query("moved", **DIED), 2 * 10**10)
    assert first is not None
    assert moved is not None
    assert moved.engine_order < first.engine_order


def test_its_answer_is_load_too_and_the_decision_says_all() -> None:
    router = state(workers=1)
    decision = router.decide(0, query("moved", 1, **DIED), 0)
    assert decision is not None
    assert (decision.moved, decision.moved_from, decision.output_tokens) == ("died", 0, 10)
    assert router.ledger.entries["moved"].prompt_tokens == 5 + 10


def test_it_is_no_measure_of_predictions() -> None:
    router = state(workers=1)
    router.decide(0, query("moved", 1, **DIED), 0)
    assert router.first_token("moved", 8, 0) is None
    assert router.measured_tokens == 0


def test_one_that_waits_for_another_worker_holds_up_nobody() -> None:
    router = state(workers=2, seqs=1)
    for name in "abcd":
        place(router, query(name))
    books = router.ledger.books
    full = next(worker for worker, book in books.items() if book.full)
    assert router.decide(0, query("moved", excluded=(1 - full,), **DIED), 0) is None
    assert router.decide(0, query("new"), 0) is None
    ended = next(name for name, entry in router.ledger.entries.items() if entry.worker != full)
    router.end(ended)
    ((_, decision),) = router.released(0)
    assert (decision.request_id, decision.worker) == ("new", 1 - full)
    router.end("new")
    assert place(router, query("newer")) == 1 - full
    assert router.waiting_requests == 1
