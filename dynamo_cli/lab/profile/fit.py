"""Fits the times of a `Profile` to measured runs of a real engine. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

from dynamo_cli.engines.measured import TERMS, Burst, MeasuredRun, Times
from dynamo_cli.engines.mock.profile import PS, Profile
from dynamo_cli.engines.mock.request import SimRequest
from dynamo_cli.engines.mock.state import SimEngine


def fit(runs: Sequence[MeasuredRun]) -> Times:
    """Return the times with the least squares of relative errors; none of them is negative.

    There are so few terms that every subset is tried; the best one without negative times wins.
    """
    rows = [[total / run.seconds for total in run.sums] for run in runs]
    best: Times | None = None
    least = float("inf")
    for count in range(1, len(TERMS) + 1):
        for rest in combinations(range(1, len(TERMS)), count - 1):
            chosen = (0, *rest)  # every step takes some time, so the first term is always fitted
            values = _solve([[row[i] for i in chosen] for row in rows])
            if values is None or min(values) < 0 or values[0] <= 0:
                continue
            times = dict.fromkeys(TERMS, 0.0) | {
                TERMS[i]: value for i, value in zip(chosen, values, strict=True)
            }
            error = sum((run.predicted_s(times) / run.seconds - 1) ** 2 for run in runs)
            if error < least:
                best, least = times, error
    assert best is not None  # the subset of the first term alone always has a solution
    return best


def _solve(rows: list[list[float]]) -> list[float] | None:
    """Solve for x so that each row times x is as near to 1 as possible; None if x is not unique."""
    size = len(rows[0])
    scale = [max(abs(row[i]) for row in rows) or 1.0 for i in range(size)]
    scaled = [[row[i] / scale[i] for i in range(size)] for row in rows]
    matrix = [
        [sum(row[i] * row[j] for row in scaled) for j in range(size)]
        + [sum(row[i] for row in scaled)]
        for i in range(size)
    ]
    for column in range(size):
        pivot = max(range(column, size), key=lambda i, c=column: abs(matrix[i][c]))  # type: ignore[misc]
        if abs(matrix[pivot][column]) < 1e-12:
            return None
        matrix[column], matrix[pivot] = matrix[pivot], matrix[column]
        for i in range(size):
            if i != column:
                factor = matrix[i][column] / matrix[column][column]
                matrix[i] = [a - factor * b for a, b in zip(matrix[i], matrix[column], strict=True)]
    return [matrix[i][size] / matrix[i][i] / scale[i] for i in range(size)]


class Errors(NamedTuple):
    """Relative errors of the fitted times."""

    median: float
    largest: float


def errors(runs: Sequence[MeasuredRun], times: Times) -> dict[str, Errors]:
    """Return the relative errors by the kind of run."""
    found: dict[str, list[float]] = {}
    for run in runs:
        found.setdefault(run.kind, []).append(abs(run.predicted_s(times) / run.seconds - 1))
    return {kind: Errors(statistics.median(each), max(each)) for kind, each in found.items()}


def simulate(burst: Burst, profile: Profile) -> Burst:
    """Run the requests of a burst through a simulated engine and return its times."""
    engine, now_ps = SimEngine(profile), 0
    first_ps: dict[str, int] = {}
    for number, (prompt, output) in enumerate(burst.lengths):
        name = str(number)
        # No two requests share a block, so the hashes only need to differ.
        blocks = [(number << 32) + i for i in range(prompt // profile.block_size)]
        engine.add(SimRequest(name, prompt, output, blocks, _name_output))
    while engine.has_work():
        result = engine.step()
        now_ps += result.duration_ps
        for request in result.joined:
            first_ps.setdefault(request.request_id, now_ps)
    ttft_s = tuple(first_ps[str(number)] / PS for number in range(len(burst.lengths)))
    return Burst(burst.lengths, ttft_s, now_ps / PS)


def _name_output(request: SimRequest, block: int) -> int:
    """Return the hash of a block with output, which differs from all others."""
    return (1 << 63) + (int(request.request_id) << 32) + block
