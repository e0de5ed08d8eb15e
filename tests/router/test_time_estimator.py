"""Measured times: fits compared with known machines, and forgetting."""

from __future__ import annotations

import random

import pytest

from dynamo_cli.router.time_estimator import (
    BUSY_WINDOW_S,
    MOST_BUSY,
    MOST_LOST,
    Prices,
    TimeEstimator,
    pairs,
)
from dynamo_cli.units import SECOND_NS

MACHINES = [
    Prices(request_s=0.02, token_s=70e-6, pair_s=1.4e-9),
    Prices(request_s=0.0, token_s=3e-3, pair_s=0.0),
    Prices(request_s=0.001, token_s=5e-6, pair_s=0.1e-9),
]


def feed(estimator: TimeEstimator, machine: Prices, count: int, noise: float = 0.2) -> None:
    dice = random.Random(1)
    for _ in range(count):
        tokens = round(dice.lognormvariate(8, 1.2))
        cached = round(tokens * dice.choice([0, 0, 0.3, 0.9]))
        took_s = machine.prefill_s(1, tokens - cached, pairs(tokens - cached, cached))
        estimator.prefilled(tokens, cached, took_s * dice.uniform(1 - noise, 1 + noise))


@pytest.mark.parametrize("machine", MACHINES)
def test_prefills_are_foretold_after_a_while(machine: Prices) -> None:
    estimator = TimeEstimator()
    feed(estimator, machine, 300)
    for tokens, before in ((500, 0), (5_000, 0), (5_000, 20_000), (40_000, 0)):
        expected_s = machine.prefill_s(1, tokens, pairs(tokens, before))
        found_s = estimator.prices.prefill_s(1, tokens, pairs(tokens, before))
        assert found_s == pytest.approx(expected_s, rel=0.2), (tokens, before)


def test_a_machine_that_changes_is_followed() -> None:
    estimator = TimeEstimator()
    feed(estimator, MACHINES[2], 1000)
    feed(estimator, MACHINES[0], 1000)
    machine = MACHINES[0]
    assert estimator.prices.prefill_s(1, 5_000, pairs(5_000, 0)) == pytest.approx(
        machine.prefill_s(1, 5_000, pairs(5_000, 0)), rel=0.2
    )


def test_the_first_prefill_counts_for_more_than_the_prior() -> None:
    estimator = TimeEstimator()
    estimator.prefilled(1_000, 0, 8.0)
    assert estimator.prices.prefill_s(1, 1_000, pairs(1_000, 0)) == pytest.approx(8.0, rel=0.2)


def test_nothing_takes_less_than_no_time() -> None:
    estimator = TimeEstimator()
    for tokens, took_s in ((10, 1.0), (10_000, 0.0), (1_000, 0.5)) * 50:
        estimator.prefilled(tokens, 0, took_s)
    prices = estimator.prices
    assert min(prices.request_s, prices.token_s, prices.pair_s) >= 0


def test_the_slowdown_of_decoding_is_what_a_request_adds_to_each_step_of_an_answer() -> None:
    estimator = TimeEstimator()
    for running in (3, 40, 12, 25) * 50:
        estimator.stepped(running, 0.01 + 0.0002 * running)
    for _ in range(1000):
        estimator.ran(output_tokens=300, running_s=6.0)
        estimator.answered()
    assert estimator.prices.decode_slowdown_s == pytest.approx(0.0002 * 300, rel=0.05)
    assert estimator.prices.held_s == pytest.approx(6.0, rel=0.05)


@pytest.mark.parametrize(
    ("repeated", "cached", "lost"),
    [(0, 0, 0.0), (600, 600, 0.0), (600, 200, 0.5), (400, 500, 0.0), (999, 0, MOST_LOST)],
)
def test_what_came_before_and_is_computed_was_lost(repeated: int, cached: int, lost: float) -> None:
    estimator = TimeEstimator()
    for _ in range(2000):
        estimator.asked(1000, repeated)
        estimator.prefilled(1000, cached, 0.1)
    assert estimator.prices.lost_share == pytest.approx(lost, abs=0.01)


def test_the_busy_share_is_that_of_the_last_half_minute() -> None:
    estimator = TimeEstimator()
    estimator.busy(0.0, 100 * SECOND_NS)
    estimator.busy(0.5, 1000 * SECOND_NS)
    assert estimator.prices.busy_share == pytest.approx(0.5)
    estimator.busy(1.0, 1000 * SECOND_NS)
    assert estimator.prices.busy_share == pytest.approx(0.5)  # no time has passed
    estimator.busy(1.0, (1000 + round(BUSY_WINDOW_S)) * SECOND_NS)
    assert 0.75 < estimator.prices.busy_share < 0.85
    estimator.busy(1.0, 2000 * SECOND_NS)
    assert estimator.prices.busy_share == MOST_BUSY
