"""Counts of values by upper bound. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence


class Histogram:
    """Counts of values by upper bound, as Prometheus needs them; a value costs one bisection.

    Attributes:
        bounds: upper bounds, ascending.
        counts: one count for each bound, and a last one for values above all bounds.
        total: sum of all values.
    """

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def cumulative(self) -> list[tuple[str, float]]:
        """Return pairs of an upper bound and the number of values up to it; the last is +Inf."""
        names = [*map(str, self.bounds), "+Inf"]
        running, pairs = 0, []
        for name, count in zip(names, self.counts, strict=True):
            running += count
            pairs.append((name, float(running)))
        return pairs


def merged(histograms: Sequence[Histogram]) -> Histogram:
    """The values of several histograms with the same bounds together."""
    both = Histogram(histograms[0].bounds)
    for one in histograms:
        both.counts = [a + b for a, b in zip(both.counts, one.counts, strict=True)]
        both.total += one.total
    return both
