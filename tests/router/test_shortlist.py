"""The choice among a thousand workers, of which some are compared."""

from __future__ import annotations

import random

import pytest

from dynamo_cli.messages.routing import Placed, RouteQuery, RoutingDecision
from dynamo_cli.router import shortlist
from dynamo_cli.router.state import RouterState
from tests.router.test_state import (
    BLOCK,
    chain,
    holding,
    place,
    placed_in_turn,
    query,
    ready,
    state,
)

MANY = 1024


def names(count: int) -> list[str]:
    return [f"r{number}" for number in range(count)]


def test_round_robin_takes_each_of_many_in_turn() -> None:
    router = state("round-robin", workers=200)
    assert placed_in_turn(router, *names(200)) == list(range(200))
    router.worker_down(0)
    give(router, 1, 5)  # load does not matter
    assert placed_in_turn(router, "a", "b") == [1, 2]


@pytest.mark.parametrize("policy", ["least-loaded", "kv"])
def test_a_burst_goes_to_each_of_many_once(policy: str) -> None:
    router = state(policy, workers=MANY)
    assert sorted(placed_in_turn(router, *names(MANY))) == list(range(MANY))
    router.end("r77")
    assert placed_in_turn(router, "next") == [77]


def test_random_choices_reach_all_of_many() -> None:
    router = state("random", workers=100, seqs=10_000)
    assert len(set(placed_in_turn(router, *names(1_000)))) == 100


def compared(router: RouterState, asked: RouteQuery) -> dict[int, int]:
    """Which workers are compared, with the blocks that each holds."""
    decision = router.decide(0, asked, 0)
    assert decision is not None
    return {one.worker: one.overlap_blocks for one in decision.candidates}


def give(router: RouterState, worker: int, requests: int) -> None:
    """Put requests on a worker that the router did not choose for them."""
    for number in range(requests):
        router.placed(0, Placed(f"given {number}", worker, BLOCK, prefilled=True), 0)


def test_the_holder_of_a_prompt_is_compared_although_it_is_the_busiest() -> None:
    router = state(workers=MANY, seqs=64)
    for worker in range(MANY):
        holding(router, worker, 1, *range(100, 100 + worker % 7))
    holding(router, 900, *range(1, 60))
    give(router, 900, 20)
    candidates = compared(router, query("more", *range(1, 59)))
    assert candidates[900] == 58
    assert len(candidates) < shortlist.MOST_COMPARED


def test_the_promised_prompt_is_compared_although_nobody_holds_it_yet() -> None:
    router = state(workers=MANY, seqs=64)
    first = place(router, query("first", *range(1, 59)))
    assert first is not None
    give(router, first, 20)
    assert first in compared(router, query("more", *range(1, 59)))


def test_full_and_excluded_workers_are_not_compared() -> None:
    router = state(workers=100, seqs=4)
    holding(router, 50, 1, 2, 3)
    assert place(router, query("a", 1, 2, 3, excluded=(50,))) not in (50, None)
    for only in (7, 97):
        others = tuple(one for one in range(100) if one != only)
        assert place(router, query(f"only {only}", 1, 2, 3, excluded=others)) == only
    give(router, 50, 5)
    assert router.ledger.books[50].full
    assert 50 not in compared(router, query("d", 1, 2, 3))
    router.end("given 0")
    assert 50 in compared(router, query("e", 1, 2, 3))


def test_a_query_waits_when_all_of_many_are_full() -> None:
    router = state("least-loaded", workers=70, seqs=1)
    assert None not in placed_in_turn(router, *names(140))
    assert router.decide(0, query("late"), 0) is None
    router.end("r5")
    ((_, decision),) = router.released(0)
    assert decision.worker == 5


def test_the_worker_of_a_session_is_compared() -> None:
    router = state(workers=MANY)
    holding(router, 500, 1, 2)
    assert place(router, query("a", 1, 2, session="s", extra=3)) == 500
    for worker in range(40):  # more than are compared hold more of it than the session's worker
        holding(router, worker, 1, 2, 3, 4)
    assert place(router, query("b", 1, 2, 3, 4, session="s", excluded=())) == 500


def test_the_worker_of_a_session_may_have_ended() -> None:
    router = state(workers=100)
    holding(router, 50, 1, 2)
    assert place(router, query("a", 1, 2, session="s", extra=3)) == 50
    router.worker_down(50)
    assert 50 not in compared(router, query("b", 1, 2, session="s"))


def busy(router: RouterState, dice: random.Random) -> None:
    """Give workers prefixes and requests by chance."""
    tree = [dice.choices(range(1, 4), k=dice.randrange(30)) for _ in range(60)]
    for worker in range(100):
        router.caches.index.store(worker, chain(*dice.choice(tree)))
    for number in range(600):
        place(router, query(f"{number}", *dice.choice(tree)))
        if dice.random() < 0.5:
            router.first_token(f"{dice.randrange(number + 1)}", 0, 1_000_000)
        if dice.random() < 0.4:
            router.end(f"{dice.randrange(number + 1)}")


def chosen(router: RouterState, asked: RouteQuery) -> RoutingDecision:
    """Decide, and take the request back."""
    decision = router.decide(0, asked, 0)
    router.end(asked.request_id)
    assert decision is not None
    assert decision.worker is not None
    return decision


@pytest.mark.parametrize(("policy", "most"), [("kv", 1.0), ("least-loaded", 0.0)])
@pytest.mark.parametrize("seed", range(3))
def test_of_many_nearly_the_same_is_chosen_as_by_comparing_all(
    seed: int, policy: str, most: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    dice = random.Random(seed)
    router = state(policy, workers=100, seqs=64)
    busy(router, dice)
    lost: dict[str, list[float]] = {"cost": [], "no_overlap": []}
    for number in range(50):
        known = dice.choices((range(1, 4), range(7, 9)))[0]
        asked = query(f"asked {number}", *dice.choices(known, k=dice.randrange(12)))
        few = chosen(router, asked)
        with monkeypatch.context() as patched:
            patched.setattr(shortlist, "MOST_COMPARED", MANY)
            everybody = chosen(router, asked)
        costs = {one.worker: one.cost for one in everybody.candidates}
        lost[everybody.reason].append(costs[few.worker] - min(costs.values()))
    assert len(lost["cost"]) > 15
    assert policy != "kv" or len(lost["no_overlap"]) > 15
    assert max(lost["cost"] + lost["no_overlap"]) <= most


def test_busy_workers_are_counted_as_requests_come_and_go() -> None:
    router, dice = state(workers=5), random.Random(1)
    for number in range(500):
        router.decide(0, query(f"{number}"), number)
        match dice.randrange(8):
            case 0:
                router.worker_down(dice.randrange(5))
            case 1:
                router.worker_retired(worker := dice.randrange(5))
                router.worker_down(worker)
            case 2:
                router.worker_up(ready(dice.randrange(5)))
            case 3 | 4:
                router.first_token(f"{dice.randrange(number + 1)}", 0, number)
            case _:
                router.end(f"{dice.randrange(number + 1)}")
        waiting = sum(bool(book.waiting) for book in router.ledger.books.values())
        assert router.ledger._busy_books == waiting
        assert router.ledger.nobody_waits() is (waiting == 0)
