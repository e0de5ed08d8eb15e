"""Policies as tables."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from dynamo_cli.config import KV_COSTS, RouterConfig
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
from dynamo_cli.router.policies.timed import STALL_WEIGHT
from dynamo_cli.router.time_estimator import Prices

BLOCK = 16


def request(blocks: int, **prices: float) -> Request:
    return Request(blocks * BLOCK, blocks, BLOCK, prices=Prices(**prices))


def load(worker: int, overlap: int = 0, **more: Any) -> WorkerLoad:
    more = {"expected_blocks": overlap, **more}
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


@pytest.mark.parametrize(
    ("loads", "winner"),
    [
        ([load(0, active_requests=4), load(1, active_requests=1, waiting_requests=1)], 0),
        ([load(0, active_requests=5), load(1, active_requests=1, waiting_requests=1)], 1),
        ([load(0, 9, active_requests=1), load(1)], 1),
    ],
    ids=["as many: the least recently used", "more than four", "what is cached does not count"],
)
def test_a_request_without_a_first_token_counts_as_four(
    loads: list[WorkerLoad], winner: int
) -> None:
    choice = choose_least_loaded(request(2), loads)
    assert choice.worker == winner
    assert costs(choice) == {each.worker: sum(each.terms.values()) for each in choice.candidates}
    assert all(each.terms.keys() == LEAST_LOADED_TERMS for each in choice.candidates)


LEAST_LOADED_TERMS = {"running_requests", "weighted_waiting_requests"}

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
    ("a prompt shorter than a block", Request(3, 1), [load(0, decode_blocks=1), load(1)], 1),
    ("an empty prompt", Request(0, 0), [load(0, decode_blocks=1), load(1)], 1),
]


@pytest.mark.parametrize("cost", ["blocks", "shares"])
@pytest.mark.parametrize(
    ("what", "asked", "loads", "winner"), KV_CASES, ids=[case[0] for case in KV_CASES]
)
def test_kv(cost: str, what: str, asked: Request, loads: list[WorkerLoad], winner: int) -> None:
    if cost == "shares" and what in SHARES_DIFFER:
        winner = SHARES_DIFFER[what]
    assert KvPolicy(cost)(asked, loads).worker == winner


SHARES_DIFFER = {
    # The cost adds shares, so a long cached prefix weighs no more than a short one.
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


def test_the_cost_by_shares_is_as_published() -> None:
    loads = [load(0, 4, decode_blocks=500, waiting_requests=1), load(1, 1, waiting_requests=4)]
    choice = KvPolicy("shares")(request(10), loads)
    assert costs(choice) == pytest.approx({0: -0.8 + 0.5 + 0.25, 1: -0.2 + 0 + 1})


@pytest.mark.parametrize("cost", KV_COSTS)
@pytest.mark.parametrize("blocks", [0, 1, 20])
def test_without_overlap_the_cost_decides_too(cost: str, blocks: int) -> None:
    # The worker with the fewest requests has the longest prompts to compute.
    waits = {"prefill_blocks": 50, "decode_blocks": 90, "wait_s": 0.5}
    loads = [
        load(0, active_requests=1, waiting_requests=1, last_used=1, **waits),
        load(1, active_requests=5, decode_blocks=60, last_used=5),
        load(2, active_requests=4, decode_blocks=50, last_used=4),
    ]
    choice = KvPolicy(cost)(request(blocks), loads)
    assert choice.worker == 2
    assert choice.reason == "no_overlap"
    assert costs(choice) == {each.worker: sum(each.terms.values()) for each in choice.candidates}
    drawn = {
        KvPolicy(cost, temperature=5.0, dice=lambda dice=dice: dice)(request(blocks), loads).worker
        for dice in (0.1, 0.5, 0.9)
    }
    assert drawn == {0, 1, 2}


def test_temperature_spreads_and_prefers_low_costs() -> None:
    loads = [load(0, 9), load(1, 1), load(2, 5)]
    throws = [place / 1000 for place in range(1000)]

    def wins(temperature: float) -> list[int]:
        won = [0, 0, 0]
        for throw in throws:
            policy: Policy = KvPolicy(
                "blocks", temperature=temperature, dice=lambda throw=throw: throw
            )
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
        placed[KvPolicy("blocks")(request(10), loads).worker] += 1
    assert placed == [10, 10, 10, 10]


# -- the cost of time --------------------------------------------------------------------------

# Unless a case says otherwise, a prompt token takes a millisecond and nothing else takes time.
PLAIN = {"request_s": 0.0, "token_s": 0.001, "pair_s": 0.0, "decode_slowdown_s": 0.0}
BLOCK_S = BLOCK * 0.001

TIME_CASES: list[tuple[str, dict[str, float], list[WorkerLoad], int]] = [
    ("the deepest prefix when all are idle", {}, [load(0, 2), load(1, 8), load(2)], 1),
    (
        "a queue that is longer than what the prefix saves",
        {},
        [load(0, 8, wait_s=9 * BLOCK_S), load(1)],
        1,
    ),
    (
        "a queue that is shorter than what the prefix saves",
        {},
        [load(0, 8, wait_s=7 * BLOCK_S), load(1)],
        0,
    ),
    (
        "where all are busy, what is computed twice delays others: the queue may be longer",
        {"busy_share": 0.9},
        [load(0, 8, wait_s=70 * BLOCK_S), load(1)],
        0,
    ),
    (
        "where much is computed again and again, what is computed twice costs more",
        {"lost_share": 0.5},
        [load(0, 8, wait_s=15 * BLOCK_S, cached_blocks=1000), load(1, cached_blocks=1000)],
        0,
    ),
    (
        "a cache with room left loses nothing",
        {"lost_share": 0.5},
        [load(0, 1, cached_blocks=1000), load(1)],
        1,
    ),
    (
        "blocks that a waiting prompt will take are not free",
        {"lost_share": 0.5},
        [
            load(0, wait_s=5 * BLOCK_S, cached_blocks=900, prefill_blocks=100),
            load(1, cached_blocks=1000),
        ],
        1,
    ),
    (
        "nor are those that answers are filling",
        {"lost_share": 0.5},
        [load(0, wait_s=0.01, cached_blocks=980, active_requests=20), load(1, cached_blocks=1000)],
        1,
    ),
    (
        "but not endlessly",
        {"busy_share": 0.9},
        [load(0, 8, wait_s=81 * BLOCK_S), load(1)],
        1,
    ),
    (
        "a prefix that all hold decides nothing",
        {},
        [load(0, 8, wait_s=0.02), load(1, 8, wait_s=0.01), load(2, 8, wait_s=0.03)],
        1,
    ),
    (
        "a prefix that one holds does not draw everybody: answers take longer beside others",
        {"decode_slowdown_s": 0.05},
        [load(0, 8, active_requests=3), load(1), load(2)],
        1,
    ),
    (
        "a sibling that is still to be computed counts as cached",
        {},
        [load(0, 2, expected_blocks=9, wait_s=2 * BLOCK_S), load(1, 6)],
        0,
    ),
    (
        "long prefixes are worth more than their tokens",
        {"pair_s": 0.001},
        [load(0, 9, wait_s=BLOCK_S * 100), load(1, 8)],
        0,
    ),
    (
        "equal costs: the deeper prefix",
        {},
        [load(0, 4, wait_s=0.0, last_used=1), load(1, 6, wait_s=2 * BLOCK_S, last_used=9)],
        1,
    ),
    (
        "all equal: the least recently used",
        {},
        [load(0, 5, last_used=7), load(1, 5, last_used=2), load(2, 5, last_used=4)],
        1,
    ),
]


@pytest.mark.parametrize(
    ("what", "prices", "loads", "winner"), TIME_CASES, ids=[case[0] for case in TIME_CASES]
)
def test_time(what: str, prices: dict[str, float], loads: list[WorkerLoad], winner: int) -> None:
    assert KvPolicy("time")(request(10, **PLAIN | prices), loads).worker == winner


def test_the_terms_of_time_are_milliseconds() -> None:
    asked = request(
        10, **PLAIN | {"busy_share": 0.5, "request_s": 0.01, "decode_slowdown_s": 0.002}
    )
    lossy = msgspec.structs.replace(
        asked, prices=msgspec.structs.replace(asked.prices, lost_share=0.75)
    )
    loads = [
        load(0, 4, wait_s=0.1, active_requests=25, waiting_requests=5, cached_blocks=977),
        load(1, active_requests=20),
    ]
    choice = KvPolicy("time", overlap_weight=2)(asked, loads)
    first, second = (candidate.terms for candidate in choice.candidates)
    # Workers are busy half of the time, so later requests are delayed by as long as the prefill
    # takes; each worker has 20 streams.
    price = 0.5 / (1 - 0.5) + STALL_WEIGHT * 20
    assert first == pytest.approx(
        {
            "wait_ms": 100,
            "prefill_ms": 2 * (10 + 96),
            "queueing_delay_ms": 2 * (10 + 96) * price,
            "eviction_cost_ms": 0,
            "decode_slowdown_ms": 50,
        }
    )
    # Three of four computed tokens had been evicted before, and half of the six blocks evict
    # others: in the end those are computed four times.
    eviction_cost_ms = (
        KvPolicy("time", overlap_weight=2)(lossy, loads).candidates[0].terms["eviction_cost_ms"]
    )
    assert eviction_cost_ms == pytest.approx(
        1.5 * (first["prefill_ms"] + first["queueing_delay_ms"])
    )
    assert second["prefill_ms"] == pytest.approx(2 * (10 + 160))
    assert costs(choice)[0] == pytest.approx(sum(first.values()))


def test_a_sibling_on_its_way_is_overlap_for_time_alone() -> None:
    loads = [load(0, 0, expected_blocks=9, active_requests=1), load(1)]
    assert KvPolicy("time")(request(10, **PLAIN), loads).worker == 0
    assert KvPolicy("blocks")(request(10, **PLAIN), loads).reason == "no_overlap"
