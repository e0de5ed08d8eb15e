"""The router without a process: policies and the ledger as tables."""

from __future__ import annotations

import pytest

from dynamo_cli.messages import RouteQuery, RoutingDecision
from dynamo_cli.router.policies import WorkerLoad, choose_least_loaded, choose_random
from dynamo_cli.router.state import RouterState


def state(policy: str, workers: int = 3) -> RouterState:
    fresh = RouterState(policy)
    for worker in range(workers):
        fresh.worker_up(worker)
    return fresh


def decide(router: RouterState, *names: str, processor: int = 0) -> list[int]:
    return [router.decide(processor, RouteQuery(name, 10)).worker for name in names]


def test_round_robin_takes_each_in_turn_and_a_new_one_at_once() -> None:
    router = state("round-robin")
    assert decide(router, *"abcd") == [0, 1, 2, 0]
    router.worker_up(7)
    assert decide(router, "e") == [7]
    router.worker_down(1)
    assert decide(router, "f", "g") == [2, 0]


def test_least_loaded_sees_its_own_burst_and_breaks_ties_by_last_use() -> None:
    router = state("least-loaded")
    assert decide(router, *"abcde") == [0, 1, 2, 0, 1]
    router.end("b")
    router.end("e")
    assert decide(router, "f") == [1]


@pytest.mark.parametrize("pick", [0, 1, 2])
def test_random_takes_whom_the_dice_name(pick: int) -> None:
    loads = [WorkerLoad(worker, 9 - worker, 0, 0) for worker in (3, 5, 8)]
    assert choose_random(loads, lambda count: pick).worker == (3, 5, 8)[pick]


def test_every_candidate_is_shown_with_its_cost() -> None:
    choice = choose_least_loaded([WorkerLoad(0, 4, 0, 0), WorkerLoad(1, 2, 0, 9)])
    assert choice.worker == 1
    assert [(one.worker, one.cost, one.terms) for one in choice.candidates] == [
        (0, 4.0, {"active_requests": 4.0}),
        (1, 2.0, {"active_requests": 2.0}),
    ]


def test_without_workers_there_is_no_decision_and_no_load() -> None:
    router = state("least-loaded", workers=0)
    assert router.decide(0, RouteQuery("a", 10)) == RoutingDecision("a", -1, router.policy, [], 0.0)
    assert not router.requests


def test_the_ledger_is_empty_when_all_is_over() -> None:
    router = state("least-loaded", workers=1)
    decide(router, "a", "b")
    decide(router, "c", processor=1)
    (worker,) = router.workers.values()
    assert (worker.active_requests, worker.active_prefill_tokens) == (3, 30)
    router.first_token("a")
    router.first_token("a")
    assert (worker.active_requests, worker.active_prefill_tokens) == (3, 20)
    router.end("a")
    router.end("a")
    router.end("unknown")
    assert (worker.active_requests, worker.active_prefill_tokens) == (2, 20)
    router.processor_down(1)
    router.end("b")
    assert (worker.active_requests, worker.active_prefill_tokens) == (0, 0)
    assert not router.requests


def test_a_worker_that_comes_back_has_no_load() -> None:
    router = state("least-loaded", workers=2)
    decide(router, *"abcd")
    router.worker_down(0)
    router.worker_up(0)
    router.end("a")  # of the life before
    assert router.stats(0).active_requests == {1: 2, 0: 0}
    assert router.stats(0).decisions == {0: 2, 1: 2}
    assert decide(router, "e") == [0]
