"""Fitting a profile to runs of an engine: finds known times, in spite of noise and gaps."""

from __future__ import annotations

import random

import pytest

from dynamo_cli.engines.measured import TERMS, Burst, MeasuredRun, pairs
from dynamo_cli.engines.mock.profile import Profile
from dynamo_cli.lab.profile.fit import errors, fit, simulate

TRUE = dict(zip(TERMS, (2e-3, 500e-6, 60e-6, 5e-9, 90e-6, 10e-9), strict=True))


def runs(times: dict[str, float], noise: float = 0.0) -> list[MeasuredRun]:
    dice = random.Random(5)

    def run(kind: str, *sums: int) -> MeasuredRun:
        bare = MeasuredRun(kind, *sums, seconds=1.0)  # type: ignore[arg-type]
        seconds = bare.predicted_s(times) * dice.uniform(1 - noise, 1 + noise)
        return MeasuredRun(kind, *sums, seconds=seconds)  # type: ignore[arg-type]

    prefills = [(size, before) for size in (8, 128, 2000) for before in (0, 1024, 4096)]
    together = [(count, size) for count in (2, 8) for size in (8, 128)]
    decodes = [(count, context) for count in (1, 8, 64) for context in (16, 512, 4096)]
    return [
        *(run("prefill", 1, 1, size, pairs(size, before), 0, 0) for size, before in prefills),
        *(run("prefill", 1, n, n * size, n * pairs(size, 0), 0, 0) for n, size in together),
        *(run("decode", 8, 0, 0, 0, 8 * n, 8 * n * context) for n, context in decodes),
    ]


def test_known_times_are_found_again() -> None:
    exact = runs(TRUE)
    assert fit(exact) == pytest.approx(TRUE, rel=1e-6)
    found = errors(exact, TRUE)
    assert found.keys() == {"prefill", "decode"}
    assert max(error.largest for error in found.values()) < 1e-9


def test_noise_moves_them_little() -> None:
    noisy = runs(TRUE, noise=0.1)
    found = fit(noisy)
    assert found == pytest.approx(TRUE, rel=0.4)
    for error in errors(noisy, found).values():
        assert 0 < error.median < error.largest < 0.2


def test_no_time_is_negative() -> None:
    lazy = TRUE | {"prefill_context_s": 0.0, "decode_context_s": 0.0}
    for noise in (0.0, 0.3):
        assert min(fit(runs(lazy, noise)).values()) >= 0


def test_one_run_is_enough_for_something() -> None:
    only = MeasuredRun("prefill", 1, 1, 8, pairs(8, 0), 0, 0, 0.004)
    times = fit([only])
    assert times["step_s"] > 0
    assert only.predicted_s(times) == pytest.approx(0.004)


def test_a_burst_is_simulated_by_the_rules_of_the_engine() -> None:
    profile = Profile(
        name="x",
        source="",
        step_s=1.0,
        prefill_token_s=0.01,
        decode_request_s=0.1,
        max_num_seqs=2,
        max_num_batched_tokens=100,
        max_model_len=200,
    )
    planned = Burst(lengths=((50, 2), (50, 2), (20, 1)))
    burst = simulate(planned, profile)
    # Both fit into a step of 1 + 100 * 0.01 s; then 1.2 s for the second token; then the third.
    assert burst.ttft_s == pytest.approx((2.0, 2.0, 4.4))
    assert burst.total_s == pytest.approx(4.4)
    assert burst.output_tokens_per_s == pytest.approx(5 / 4.4)
