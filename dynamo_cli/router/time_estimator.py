"""Measures how long workers need for their work. Pure: the clock is an argument.

Nothing here is configured: all times are estimated from the first tokens of requests and from the
reports of workers. Until there are any, the estimates are those of a model with eight billion
parameters on a GPU. Their weight, `PRIOR_WEIGHT`, is small, so that the first samples replace them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from dynamo_cli.units import SECOND_NS

FORGET = 0.995
"""Factor by which each new sample reduces the weight of all older ones, so that about the last two
hundred count."""

PRIOR_WEIGHT = 0.01
SWEEPS = 4
"""Sweeps of coordinate descent after each sample."""

BUSY_WINDOW_S = 30.0
"""Time constant of the average of the busy share, seconds. It is short because traffic changes
within minutes."""

MOST_BUSY, MOST_LOST = 0.95, 0.8
"""Upper bounds of `busy_share` and `lost_share`: at 1, the cost of a prefill would be infinite."""

TOKENS, PAIRS = 1e-3, 1e-6
"""Units of the features of a prompt, chosen so that all features have a similar size."""


class Prices(msgspec.Struct, frozen=True, gc=False):
    """What the parts of a request cost, in seconds of a worker's time.

    Attributes:
        request_s: fixed time of a prefill, however short it is.
        token_s: time for each computed prompt token.
        pair_s: time for each pair of a computed token and a token before it (attention).
        decode_slowdown_s: by how much longer an answer takes for each other request that its
            worker runs at the same time.
        held_s: how long a request keeps its KV blocks, on average.
        lost_share: share of the computed tokens that had been computed before and were evicted,
            0 to `MOST_LOST`.
        busy_share: share of the time in which workers have prefills to do, 0 to `MOST_BUSY`.
    """

    request_s: float = 0.01
    token_s: float = 50e-6
    pair_s: float = 1e-9
    decode_slowdown_s: float = 0.02
    held_s: float = 5.0
    lost_share: float = 0.0
    busy_share: float = 0.0

    def prefill_s(self, requests: int, tokens: float, pairs: float) -> float:
        """Return the time to compute the prompts of `requests` requests, seconds."""
        return self.request_s * requests + self.token_s * tokens + self.pair_s * pairs


UNMEASURED = Prices()


def pairs(tokens: float, before: float) -> float:
    """Count the pairs of a computed token and a token before it.

    Args:
        tokens: number of computed tokens.
        before: number of cached tokens that precede them.
    """
    return tokens * (before + tokens / 2)


@dataclass(slots=True)
class LeastSquares:
    """A fit by least squares with coefficients that are not negative; older samples weigh less.

    Attributes:
        coefficients: one for each feature, in the order of the features.
    """

    coefficients: list[float]
    _products: list[list[float]] = field(default_factory=list)
    _targets: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        size = range(len(self.coefficients))
        self._products = [[0.0 for _ in size] for _ in size]
        self._targets = [0.0 for _ in size]
        for place in size:  # the prior is one sample for each feature alone
            self._products[place][place] = PRIOR_WEIGHT
            self._targets[place] = PRIOR_WEIGHT * self.coefficients[place]

    def value(self, features: Sequence[float]) -> float:
        """Return the estimate for these features."""
        return sum(map(float.__mul__, self.coefficients, features))

    def add(self, features: Sequence[float], target: float, weight: float) -> None:
        """Add a sample and improve the coefficients with a few sweeps of coordinate descent."""
        for row, one in zip(self._products, features, strict=True):
            for place, other in enumerate(features):
                row[place] = FORGET * row[place] + weight * one * other
        for place, one in enumerate(features):
            self._targets[place] = FORGET * self._targets[place] + weight * one * target
        for _ in range(SWEEPS):
            self._sweep()

    def _sweep(self) -> None:
        found = self.coefficients
        for place, row in enumerate(self._products):
            rest = self._targets[place] - sum(map(float.__mul__, row, found))
            found[place] = max(found[place] + rest / row[place], 0.0)


def _prefill_fit() -> LeastSquares:
    prior = UNMEASURED
    return LeastSquares([prior.request_s, prior.token_s / TOKENS, prior.pair_s / PAIRS])


def _step_fit() -> LeastSquares:
    return LeastSquares([0.01, 0.0001])


@dataclass(slots=True)
class TimeEstimator:
    """The measurements of the last few hundred requests. All sums decay by `FORGET`.

    Attributes:
        answers: answers that ended.
        output_tokens: tokens of answers.
        running_s: sum of the times that requests were running, seconds.
        asked_tokens, repeated_tokens: tokens of all prompts, and those of them that an earlier
            prompt began with too.
        prompt_tokens, cached_tokens: tokens of all prompts, and those of them that engines found
            in their caches.
    """

    answers: float = 1.0
    output_tokens: float = 200.0
    running_s: float = 5.0
    asked_tokens: float = 1.0
    repeated_tokens: float = 0.0
    prompt_tokens: float = 1.0
    cached_tokens: float = 0.0
    _prefill: LeastSquares = field(default_factory=_prefill_fit)
    _step: LeastSquares = field(default_factory=_step_fit)
    _busy_share: float = 0.0
    _busy_ns: int = 0

    def prefilled(self, tokens: int, cached_tokens: int, seconds: float) -> None:
        """Note a prefill of `tokens` prompt tokens, of which `cached_tokens` were not computed.

        Args:
            seconds: its duration, see `WorkerBook.prefill_began_ns`.
        """
        self.prompt_tokens = FORGET * self.prompt_tokens + tokens
        self.cached_tokens = FORGET * self.cached_tokens + cached_tokens
        computed = tokens - cached_tokens
        features = (1.0, TOKENS * computed, PAIRS * pairs(computed, cached_tokens))
        # The times of long prompts vary more, so they weigh less.
        self._prefill.add(features, seconds, 1 / max(self._prefill.value(features), 1e-3))

    def asked(self, tokens: int, repeated_tokens: int) -> None:
        """Note a prompt, of which `repeated_tokens` came in earlier prompts too."""
        self.asked_tokens = FORGET * self.asked_tokens + tokens
        self.repeated_tokens = FORGET * self.repeated_tokens + repeated_tokens

    @property
    def _lost_share(self) -> float:
        """Share of the computed tokens that an endless cache would still hold."""
        cached = self.cached_tokens / self.prompt_tokens
        lost = self.repeated_tokens / self.asked_tokens - cached
        return min(max(lost, 0.0) / max(1 - cached, 1e-3), MOST_LOST)

    def stepped(self, running: float, seconds: float) -> None:
        """Note how long a step that only decodes takes, with this number of running requests."""
        self._step.add((1.0, running), seconds, 1.0)

    def ran(self, output_tokens: int, running_s: float) -> None:
        """Note output tokens, and the sum of the times that requests ran for them, seconds."""
        self.output_tokens += output_tokens
        self.running_s += running_s

    def answered(self) -> None:
        """Note that an answer ended."""
        self.answers = FORGET * self.answers + 1
        self.output_tokens *= FORGET
        self.running_s *= FORGET

    def busy(self, share: float, now_ns: int) -> None:
        """Note the share of workers that have had prefills to do until now."""
        kept = math.exp((self._busy_ns - now_ns) / SECOND_NS / BUSY_WINDOW_S)
        self._busy_share = kept * self._busy_share + (1 - kept) * share
        self._busy_ns = now_ns

    @property
    def prices(self) -> Prices:
        """The current estimates."""
        request, token, pair = self._prefill.coefficients
        return Prices(
            request_s=request,
            token_s=token * TOKENS,
            pair_s=pair * PAIRS,
            decode_slowdown_s=self._step.coefficients[1] * self.output_tokens / self.answers,
            held_s=self.running_s / self.answers,
            lost_share=self._lost_share,
            busy_share=min(self._busy_share, MOST_BUSY),
        )
