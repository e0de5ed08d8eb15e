"""What the work of workers takes, measured while they do it. Pure: the clock is an argument.

Nothing here is configured: the first tokens of requests and the reports of workers say it. Until
they have, `PRIOR_WEIGHT` of a sample each says about what a model of eight billion parameters
takes on a GPU.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

FORGET = 0.995
"""Weight of a sample once the next has come: what counts is the last few hundred."""

PRIOR_WEIGHT = 0.01
SWEEPS = 4

BUSY_WINDOW_S = 30.0
"""Time over which the busy share is averaged: loads of people change in minutes."""

MOST_BUSY, MOST_LOST = 0.95, 0.8
"""Shares above cannot be told from 1, where the price of a prefill would have no bound."""

TOKENS, PAIRS = 1e-3, 1e-6
"""Units that make a prompt's figures alike in size."""


class Prices(msgspec.Struct, frozen=True, gc=False):
    """What things take, in seconds of a worker.

    Attributes:
        request_s: a prefill, however short.
        token_s: a token of a prompt that is computed.
        pair_s: a pair of such a token and one before it.
        company_s: by how much longer an answer takes for each other request on the same worker.
        held_s: for which a request keeps its blocks.
        lost_share: of the computed tokens, those that had been computed before, 0 to `MOST_LOST`.
        busy_share: of their time that workers have prefills to do, 0 to `MOST_BUSY`.
    """

    request_s: float = 0.01
    token_s: float = 50e-6
    pair_s: float = 1e-9
    company_s: float = 0.02
    held_s: float = 5.0
    lost_share: float = 0.0
    busy_share: float = 0.0

    def prefill_s(self, requests: int, tokens: float, pairs: float) -> float:
        """Computing the prompts of so many requests."""
        return self.request_s * requests + self.token_s * tokens + self.pair_s * pairs


UNMEASURED = Prices()


def pairs(tokens: float, before: float) -> float:
    """Pairs of a computed token and one before it, of so many after `before` cached ones."""
    return tokens * (before + tokens / 2)


@dataclass(slots=True)
class Fit:
    """Least squares without negative coefficients, over samples that are slowly forgotten.

    Attributes:
        coefficients: of the features, in their order.
    """

    coefficients: list[float]
    _products: list[list[float]] = field(default_factory=list)
    _targets: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        size = range(len(self.coefficients))
        self._products = [[0.0 for _ in size] for _ in size]
        self._targets = [0.0 for _ in size]
        for place in size:  # each feature alone says what was assumed
            self._products[place][place] = PRIOR_WEIGHT
            self._targets[place] = PRIOR_WEIGHT * self.coefficients[place]

    def value(self, features: Sequence[float]) -> float:
        return sum(map(float.__mul__, self.coefficients, features))

    def add(self, features: Sequence[float], target: float, weight: float) -> None:
        """A sample; then a few sweeps of coordinate descent from where it was."""
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


def _prefill_fit() -> Fit:
    prior = UNMEASURED
    return Fit([prior.request_s, prior.token_s / TOKENS, prior.pair_s / PAIRS])


def _step_fit() -> Fit:
    return Fit([0.01, 0.0001])


@dataclass(slots=True)
class Pace:
    """The measurements, over the last few hundred requests.

    Attributes:
        answers: that ended.
        output_tokens: of answers.
        running_s: that requests spent running, each for itself.
        asked_tokens, repeated_tokens: of prompts, and those of them that came before.
        prompt_tokens, cached_tokens: of prompts, and those of them that engines found.
    """

    answers: float = 1.0
    output_tokens: float = 200.0
    running_s: float = 5.0
    asked_tokens: float = 1.0
    repeated_tokens: float = 0.0
    prompt_tokens: float = 1.0
    cached_tokens: float = 0.0
    _prefill: Fit = field(default_factory=_prefill_fit)
    _step: Fit = field(default_factory=_step_fit)
    _busy_share: float = 0.0
    _busy_ns: int = 0

    def prefilled(self, tokens: int, cached_tokens: int, seconds: float) -> None:
        """A first token came so long after the one before, or after its request came."""
        self.prompt_tokens = FORGET * self.prompt_tokens + tokens
        self.cached_tokens = FORGET * self.cached_tokens + cached_tokens
        computed = tokens - cached_tokens
        features = (1.0, TOKENS * computed, PAIRS * pairs(computed, cached_tokens))
        # Long prompts vary by more.
        self._prefill.add(features, seconds, 1 / max(self._prefill.value(features), 1e-3))

    def asked(self, tokens: int, repeated_tokens: int) -> None:
        """A prompt came, of which so many tokens came before."""
        self.asked_tokens = FORGET * self.asked_tokens + tokens
        self.repeated_tokens = FORGET * self.repeated_tokens + repeated_tokens

    @property
    def _lost_share(self) -> float:
        cached = self.cached_tokens / self.prompt_tokens
        lost = self.repeated_tokens / self.asked_tokens - cached
        return min(max(lost, 0.0) / max(1 - cached, 1e-3), MOST_LOST)

    def stepped(self, running: float, seconds: float) -> None:
        """Steps that only decode take so long with so many requests."""
        self._step.add((1.0, running), seconds, 1.0)

    def ran(self, output_tokens: int, running_s: float) -> None:
        """So many more tokens came out, while requests ran for so long together."""
        self.output_tokens += output_tokens
        self.running_s += running_s

    def answered(self) -> None:
        """A request ended."""
        self.answers = FORGET * self.answers + 1
        self.output_tokens *= FORGET
        self.running_s *= FORGET

    def busy(self, share: float, now_ns: int) -> None:
        """Up to now this share of the workers had prefills to do."""
        kept = math.exp((self._busy_ns - now_ns) / 1e9 / BUSY_WINDOW_S)
        self._busy_share = kept * self._busy_share + (1 - kept) * share
        self._busy_ns = now_ns

    @property
    def prices(self) -> Prices:
        """What things take now."""
        request, token, pair = self._prefill.coefficients
        return Prices(
            request_s=request,
            token_s=token * TOKENS,
            pair_s=pair * PAIRS,
            company_s=self._step.coefficients[1] * self.output_tokens / self.answers,
            held_s=self.running_s / self.answers,
            lost_share=self._lost_share,
            busy_share=min(self._busy_share, MOST_BUSY),
        )
