"""Policies as tables."""

from __future__ import annotations

import pytest

from dynamo_cli.config import RouterConfig
from dynamo_cli.router.policies import (
    Choice,
    KvPolicy,
    Policy,
    Request,
    WorkerLoad,
    choose_least_loaded,
    choose_random,
    choose_round_robin,
    policy_of,
)

BLOCK = 16


def request(blocks: int) -> Request:
    return Request(blocks * BLOCK, blocks)


def load(worker: int, overlap: int = 0, **more: int) -> WorkerLoad:
    return WorkerLoad(worker, overlap, num_blocks=1000, **more)


def costs(choice: Choice) -> dict[int, float]:
    return {candidate.worker: candidate.cost for candidate in choice.candidates}


@pytest.mark.parametrize("name", ["random", "round-robin", "least-loaded", "kv"])
def test_a_single_worker_gets_everything(name: str) -> None:
    policy = policy_of(RouterConfig(name))
    assert policy(request(4), [load(3, 2)]).worker == 3


# -- blind -----------------------------------------------------------------------------------


@pytest.mark.parametrize("pick", [0, 1, 2])
def test_random_takes_whom_the_dice_name(pick: int) -> None:
    loads = [load(worker, active_requests=9 - worker) for worker in (3, 5, 8)]
    assert choose_random(request(1), loads, lambda count: pick).worker == (3, 5, 8)[pick]


def test_round_robin_takes_the_one_whose_turn_is_longest_ago() -> None:
    loads = [load(0, last_used=5), load(1, last_used=3), load(2, last_used=4, active_requests=0)]
    assert choose_round_robin(request(1), loads).worker == 1


def test_least_loaded_takes_the_fewest_requests_then_the_least_recently_used() -> None:
    loads = [load(0, active_requests=2), load(1, active_requests=1, last_used=9)]
    assert choose_least_loaded(request(1), loads).worker == 1
    loads.append(load(2, active_requests=1, last_used=4))
    choice = choose_least_loaded(request(1), loads)
    assert choice.worker == 2
    assert costs(choice) == {0: 2, 1: 1, 2: 1}


# -- kv --------------------------------------------------------------------------------------

KV_CASES: list[tuple[str, Request, list[WorkerLoad], int]] = [
    ("the deepest prefix when all are idle", request(10), [load(0, 2), load(1, 8), load(2)], 1),
    (
        "load outweighs a prefix that is worth less",
        request(10),
        [load(0, 4, decode_blocks=30), load(1)],
        1,
    ),
    (
        "a prefix that is worth more outweighs load",
        request(100),
        [load(0, 90, decode_blocks=30), load(1)],
        0,
    ),
    (
        "what is promised to be prefilled counts",
        request(10),
        [load(0, 5, prefill_blocks=20), load(1, 1)],
        1,
    ),
    (
        "all equal: the least recently used",
        request(10),
        [load(0, 5, last_used=7), load(1, 5, last_used=2), load(2, 5, last_used=4)],
        1,
    ),
    (
        "equal costs: the deeper prefix",
        request(10),
        [load(0, 2, last_used=1), load(1, 6, decode_blocks=4, last_used=9)],
        1,
    ),
    (
        "a hot system prompt that all hold decides nothing",
        request(50),
        [load(0, 40, decode_blocks=100), load(1, 40, decode_blocks=50), load(2, 40)],
        2,
    ),
    (
        "a hot system prompt that one holds does not draw everybody",
        request(50),
        [load(0, 40, decode_blocks=120, active_requests=3), load(1), load(2)],
        1,
    ),
    (
        "the last worker is not the only one whose load counts",
        request(10),
        [load(0, 1, decode_blocks=90), load(1, 1, decode_blocks=80), load(2, 1, decode_blocks=95)],
        1,
    ),
    ("a prompt shorter than a block", Request(3, 1), [load(0, active_requests=1), load(1)], 1),
    ("an empty prompt", Request(0, 0), [load(0, active_requests=1), load(1)], 1),
]


@pytest.mark.parametrize("cost", ["blocks", "ancestor"])
@pytest.mark.parametrize(
    ("what", "asked", "loads", "winner"), KV_CASES, ids=[case[0] for case in KV_CASES]
)
def test_kv(cost: str, what: str, asked: Request, loads: list[WorkerLoad], winner: int) -> None:
    if cost == "ancestor" and what in ANCESTOR_DIFFERS:
        winner = ANCESTOR_DIFFERS[what]
    assert KvPolicy(cost)(asked, loads).worker == winner


ANCESTOR_DIFFERS = {
    # It adds shares, so that a long cached prefix weighs no more than a short one.
    "load outweighs a prefix that is worth less": 0,
    "equal costs: the deeper prefix": 1,
    "what is promised to be prefilled counts": 0,  # it looks at waiting requests instead
    "a hot system prompt that one holds does not draw everybody": 0,
}


def test_the_cost_of_blocks_is_as_published() -> None:
    loads = [load(0, 4, prefill_blocks=3, decode_blocks=7), load(1, 10, decode_blocks=2)]
    choice = KvPolicy("blocks", overlap_weight=2)(request(10), loads)
    assert costs(choice) == {0: 2 * (3 + 10 - 4) + 7 + 10, 1: 2 * 0 + 2 + 10}
    assert choice.candidates[0].terms == {"prefill": 18, "decode": 7, "incoming": 10}


def test_the_cost_of_the_ancestor_is_as_published() -> None:
    loads = [load(0, 4, decode_blocks=500, waiting_requests=1), load(1, 1, waiting_requests=4)]
    choice = KvPolicy("ancestor")(request(10), loads)
    assert costs(choice) == pytest.approx({0: -0.8 + 0.5 + 0.25, 1: -0.2 + 0 + 1})


@pytest.mark.parametrize("cost", ["blocks", "ancestor"])
@pytest.mark.parametrize("blocks", [0, 1, 20])
def test_without_overlap_kv_is_least_loaded(cost: str, blocks: int) -> None:
    loads = [
        load(0, active_requests=2, decode_blocks=1, last_used=1),
        load(1, active_requests=1, decode_blocks=99, prefill_blocks=50, last_used=5),
        load(2, active_requests=1, decode_blocks=50, last_used=4),
    ]
    for policy in (KvPolicy(cost), KvPolicy(cost, temperature=5.0)):
        choice = policy(request(blocks), loads)
        blind = choose_least_loaded(request(blocks), loads)
        assert (choice.worker, choice.candidates) == (blind.worker, blind.candidates)
        assert choice.reason == "no_overlap"


def test_temperature_spreads_and_prefers_low_costs() -> None:
    loads = [load(0, 9), load(1, 1), load(2, 5)]
    throws = [place / 1000 for place in range(1000)]

    def wins(temperature: float) -> list[int]:
        won = [0, 0, 0]
        for throw in throws:
            policy: Policy = KvPolicy(temperature=temperature, dice=lambda throw=throw: throw)
            won[policy(request(10), loads).worker] += 1
        return won

    assert wins(0) == [1000, 0, 0]
    cool, hot = wins(0.5), wins(100)
    assert cool[0] > cool[2] > cool[1] > 0
    assert max(hot) - min(hot) < 20


def test_a_burst_is_spread_when_every_decision_is_reserved() -> None:
    placed = [0, 0, 0, 0]
    for number in range(40):
        loads = [
            load(worker, 4, prefill_blocks=6 * n, decode_blocks=10 * n, last_used=number)
            for worker, n in enumerate(placed)
        ]
        placed[KvPolicy()(request(10), loads).worker] += 1
    assert placed == [10, 10, 10, 10]
