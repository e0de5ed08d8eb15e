"""Summarizes many requests: means, quantiles and rates of what their clients saw. Pure."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

MS = 1000
GAP_RATIO = 1.01
"""Ratio of the upper and the lower bound of a bucket of `Gaps`."""

LEAST_GAP_S = 1e-6


class Outcome(msgspec.Struct, frozen=True, gc=False):
    """One request as its client saw it.

    Attributes:
        start_s: when it was sent, seconds since the start of the run.
        ttft_s: time from sending to its first token.
        e2e_s: time from sending to its end.
        cached_tokens: prompt tokens found in a cache; None if the server does not report it.
        error: kind of failure; empty if it succeeded. A failed request counts in no other figure.
    """

    start_s: float
    ttft_s: float = 0.0
    e2e_s: float = 0.0
    prompt_tokens: int = 0
    cached_tokens: int | None = None
    output_tokens: int = 0
    error: str = ""

    @property
    def mean_gap_s(self) -> float:
        """Mean time between its tokens; 0 if it had only one."""
        return (self.e2e_s - self.ttft_s) / max(1, self.output_tokens - 1)


class Gaps:
    """Times between the tokens of streams, counted in buckets 1 % wide: there may be millions."""

    def __init__(self) -> None:
        self._buckets: Counter[int] = Counter()
        self._total_s = 0.0

    def add(self, gap_s: float, count: int = 1) -> None:
        """Add `count` gaps of this length."""
        self._buckets[_bucket(gap_s)] += count
        self._total_s += gap_s * count

    @staticmethod
    def same(one_s: float, other_s: float) -> bool:
        """Tell whether both lengths, and all between them, fall into one bucket."""
        return _bucket(one_s) == _bucket(other_s)

    def merge(self, other: Gaps) -> None:
        """Add the gaps of another run."""
        self._buckets.update(other._buckets)
        self._total_s += other._total_s

    def quantile_s(self, share: float) -> float | None:
        """Return a quantile, exact to half a percent; None if there are no gaps."""
        left = max(1, math.ceil(share * self._buckets.total()))
        for bucket, count in sorted(self._buckets.items()):
            left -= count
            if left <= 0:
                return math.pow(GAP_RATIO, bucket + 0.5)
        return None

    def spread_ms(self) -> Spread | None:
        """Return mean and quantiles; None if there are no gaps."""
        count = self._buckets.total()
        if not count:
            return None
        quantiles = (self.quantile_s(share) or 0.0 for share in SHARES)
        return Spread(MS * self._total_s / count, *(MS * value for value in quantiles))


def _bucket(gap_s: float) -> int:
    return math.floor(math.log(max(gap_s, LEAST_GAP_S), GAP_RATIO))


class Slo(NamedTuple):
    """Service level objectives of an answer. None sets no bound.

    Attributes:
        ttft_s: largest time to the first token.
        itl_s: largest mean time between its tokens.
    """

    ttft_s: float | None = None
    itl_s: float | None = None

    def __bool__(self) -> bool:
        return self.ttft_s is not None or self.itl_s is not None

    def holds(self, outcome: Outcome) -> bool:
        """Tell whether an answer meets the objectives."""
        return (self.ttft_s is None or outcome.ttft_s <= self.ttft_s) and (
            self.itl_s is None or outcome.mean_gap_s <= self.itl_s
        )


class Spread(msgspec.Struct, frozen=True, gc=False):
    """Mean and quantiles of one figure over all requests."""

    mean: float
    p50: float
    p90: float
    p95: float
    p99: float


SHARES = (0.5, 0.9, 0.95, 0.99)
"""The quantiles of a `Spread`."""


class Summary(msgspec.Struct, frozen=True):
    """The figures of a run. A figure that is not known is None.

    Attributes:
        requests: number of requests that were answered in full.
        errors: number of failed requests by kind of failure.
        duration_s: time from sending the first request to the end of the last.
        hit_ratio: cached tokens / prompt tokens.
        itl_ms: all times between tokens, of all requests together.
        tpot_ms: mean time per token after the first, by request, of those with several tokens.
        goodput_per_s: requests within the objectives, per second.
        goodput_ratio: their share in all requests, including failed ones.
        more: further figures, name -> value.
    """

    requests: int
    errors: dict[str, int]
    duration_s: float
    prompt_tokens: int
    output_tokens: int
    hit_ratio: float | None
    ttft_ms: Spread | None
    e2e_ms: Spread | None
    itl_ms: Spread | None
    tpot_ms: Spread | None
    output_tokens_per_s: float
    requests_per_s: float
    goodput_per_s: float | None = None
    goodput_ratio: float | None = None
    more: dict[str, float] = {}

    @property
    def itl_p99_ms(self) -> float | None:
        """99th percentile of all times between tokens."""
        return None if self.itl_ms is None else self.itl_ms.p99


NO_SLO = Slo()


def summarize(
    outcomes: Sequence[Outcome],
    gaps: Gaps,
    slo: Slo = NO_SLO,
    *,
    more: dict[str, float] | None = None,
) -> Summary:
    """Summarize a run.

    Args:
        outcomes: all requests.
        gaps: times between tokens.
        slo: objectives for the goodput.
        more: further figures, name -> value.
    """
    done = [outcome for outcome in outcomes if not outcome.error]
    duration_s = _duration_s(done)
    good = sum(map(slo.holds, done)) if slo else None
    output_tokens = sum(outcome.output_tokens for outcome in done)
    return Summary(
        requests=len(done),
        errors=dict(Counter(outcome.error for outcome in outcomes if outcome.error)),
        duration_s=duration_s,
        prompt_tokens=sum(outcome.prompt_tokens for outcome in done),
        output_tokens=output_tokens,
        hit_ratio=hit_ratio(done),
        ttft_ms=spread([MS * outcome.ttft_s for outcome in done]),
        e2e_ms=spread([MS * outcome.e2e_s for outcome in done]),
        itl_ms=gaps.spread_ms(),
        tpot_ms=spread([MS * one.mean_gap_s for one in done if one.output_tokens > 1]),
        output_tokens_per_s=_rate(output_tokens, duration_s),
        requests_per_s=_rate(len(done), duration_s),
        goodput_per_s=None if good is None else _rate(good, duration_s),
        goodput_ratio=None if good is None or not outcomes else good / len(outcomes),
        more=more or {},
    )


def spread(values: Sequence[float]) -> Spread | None:
    """Return mean and quantiles; None without values."""
    if not values:
        return None
    ordered = sorted(values)
    return Spread(statistics.fmean(ordered), *(quantile(ordered, share) for share in SHARES))


def quantile(ordered: Sequence[float], share: float) -> float:
    """Return the smallest of the sorted values that `share` of them do not exceed."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def _duration_s(done: Sequence[Outcome]) -> float:
    if not done:
        return 0.0
    end_s = max(outcome.start_s + outcome.e2e_s for outcome in done)
    return end_s - min(outcome.start_s for outcome in done)


def hit_ratio(done: Sequence[Outcome]) -> float | None:
    """Return cached tokens / prompt tokens of successful requests; None if no server reports it."""
    known = [
        (outcome.cached_tokens, outcome.prompt_tokens)
        for outcome in done
        if outcome.cached_tokens is not None and outcome.prompt_tokens
    ]
    if not known:
        return None
    return sum(cached for cached, _ in known) / sum(prompt for _, prompt in known)


def _rate(count: float, duration_s: float) -> float:
    return count / duration_s if duration_s > 0 else 0.0


class Ratio(NamedTuple):
    """The ratio second / first of one figure of two runs, over several rounds."""

    median: float
    low: float
    high: float


def ratio(pairs: Sequence[tuple[float | None, float | None]]) -> Ratio | None:
    """Return second / first over all rounds; None if a round lacks a value or the first is 0."""
    ratios = [second / first for first, second in pairs if first and second is not None]
    if not ratios or len(ratios) < len(pairs):
        return None
    return Ratio(statistics.median(ratios), min(ratios), max(ratios))
