"""Workers that are to end get no more requests, and the requests that they have still count."""

from __future__ import annotations

import pytest

from dynamo_cli.messages.routing import Placed
from tests.router.test_state import holding, place, query, ready, state


def test_a_retired_worker_gets_nothing_more() -> None:
    router = state(workers=2)
    holding(router, 1, 1, 2, 3)
    assert place(router, query("a", 1, 2, 3)) == 1
    router.worker_retired(1)
    assert place(router, query("b", 1, 2, 3)) == 0
    assert "a" in router.ledger.entries
    router.end("a")
    assert "a" not in router.ledger.entries


def test_it_stays_retired_until_it_is_gone() -> None:
    router = state("least-loaded", workers=1)
    router.worker_retired(1)
    router.worker_up(ready(1))  # it was still loading
    assert list(router.ledger.books) == [0]
    router.worker_down(1)
    router.worker_up(ready(1))  # its next process
    assert sorted(router.ledger.books) == [0, 1]


def test_without_any_other_worker_nobody_takes_a_request() -> None:
    router = state("least-loaded", workers=1)
    router.worker_retired(0)
    assert place(router, query("a", 1)) is None


@pytest.mark.parametrize("workers", [1, 2])
def test_a_request_that_is_asked_about_again_counts_once(workers: int) -> None:
    """The router named a worker of which the processor knew before it that it is retired. Another
    worker has no room, or there is none; then the processor refuses the request by itself."""
    router = state("least-loaded", workers=2, seqs=1)
    for full in "xy":
        assert place(router, query(full, excluded=(0,))) == 1
    if workers == 1:
        router.worker_down(1)
    running = set(router.ledger.entries)
    assert place(router, query("a")) == 0
    again = router.decide(0, query("a", excluded=(0,)), 0)
    assert again is None or again.worker is None
    if again is None:
        router.end("a")  # the client leaves
    assert not router.waiting_requests
    assert set(router.ledger.entries) == running


def test_what_processors_say_of_its_requests_is_taken() -> None:
    router = state("least-loaded", workers=2)
    router.worker_retired(1)
    router.placed(0, Placed("a", 1, 10, prefilled=True), 0)
    router.worker_down(1)
    assert not router.ledger.entries
