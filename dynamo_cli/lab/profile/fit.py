"""From measured runs of a real engine to the times of a `Profile`, and how well these fit. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import msgspec

from dynamo_cli.engines.mock.profile import PS, Profile
from dynamo_cli.engines.mock.request import SimRequest
from dynamo_cli.engines.mock.state import SimEngine

TERMS = (
    "step_s",
    "prefill_request_s",
    "prefill_token_s",
    "prefill_context_s",
    "decode_request_s",
    "decode_context_s",
)
"""Of a profile, each with what it is multiplied with: the sums of a `Run`, in their order."""

Times = dict[str, float]
"""By the names in `TERMS`."""


class Run(msgspec.Struct, frozen=True):
    """Some steps of an engine; sums over all of them.

    Attributes:
        kind: prefill or decode: what most of it was.
        prefill_requests: prompts of which something is computed.
        prefill_pairs: pairs of a prompt's token and one before it.
        decode_context: cached tokens of all that decode.
        seconds: that they took together.
    """

    kind: str
    steps: int
    prefill_requests: int
    prefill_tokens: int
    prefill_pairs: int
    decode_requests: int
    decode_context: int
    seconds: float

    @property
    def sums(self) -> tuple[int, ...]:
        """In the order of `TERMS`."""
        return (
            self.steps,
            self.prefill_requests,
            self.prefill_tokens,
            self.prefill_pairs,
            self.decode_requests,
            self.decode_context,
        )

    def predicted_s(self, times: Times) -> float:
        """What it should have taken."""
        return sum(times[name] * total for name, total in zip(TERMS, self.sums, strict=True))


def pairs(tokens: int, before: int) -> int:
    """Of each of these tokens of a prompt with all those before it."""
    return tokens * before + tokens * (tokens - 1) // 2


def fit(runs: Sequence[Run]) -> Times:
    """The times that make the squares of the relative errors least; none is negative.

    With so few terms every set of them can be tried: the best without a negative one is the answer.
    """
    rows = [[total / run.seconds for total in run.sums] for run in runs]
    best: Times | None = None
    least = float("inf")
    for count in range(1, len(TERMS) + 1):
        for rest in combinations(range(1, len(TERMS)), count - 1):
            chosen = (0, *rest)  # a step takes time, whatever is in it
            values = _solve([[row[i] for i in chosen] for row in rows])
            if values is None or min(values) < 0 or values[0] <= 0:
                continue
            times = dict.fromkeys(TERMS, 0.0) | {
                TERMS[i]: value for i, value in zip(chosen, values, strict=True)
            }
            error = sum((run.predicted_s(times) / run.seconds - 1) ** 2 for run in runs)
            if error < least:
                best, least = times, error
    assert best is not None  # a mean time per step is always among them
    return best


def _solve(rows: list[list[float]]) -> list[float] | None:
    """The x for which the rows times x are nearest to 1; None where there is more than one."""
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
    """How far off the fitted times are, as shares of what was measured."""

    median: float
    largest: float


def errors(runs: Sequence[Run], times: Times) -> dict[str, Errors]:
    """By the kind of run."""
    found: dict[str, list[float]] = {}
    for run in runs:
        found.setdefault(run.kind, []).append(abs(run.predicted_s(times) / run.seconds - 1))
    return {kind: Errors(statistics.median(each), max(each)) for kind, each in found.items()}


class Burst(msgspec.Struct, frozen=True):
    """Requests that an engine got all at once, and which nothing was fitted to.

    Attributes:
        lengths: prompt and output tokens of each.
        ttft_s: of each; empty when this is only planned.
        total_s: until the last token of all.
    """

    lengths: tuple[tuple[int, int], ...]
    ttft_s: tuple[float, ...] = ()
    total_s: float = 0.0

    @property
    def ttft_mean_s(self) -> float:
        return statistics.fmean(self.ttft_s)

    @property
    def output_tokens_per_s(self) -> float:
        return sum(output for _, output in self.lengths) / self.total_s


def simulate(burst: Burst, profile: Profile) -> Burst:
    """The same requests through a simulated engine."""
    engine, now_ps = SimEngine(profile), 0
    first_ps: dict[str, int] = {}
    for number, (prompt, output) in enumerate(burst.lengths):
        name = str(number)
        # Nobody shares a block: the hashes only need to differ.
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
    """Of a block with output: unlike all others."""
    return (1 << 63) + (int(request.request_id) << 32) + block
