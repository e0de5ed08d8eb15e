"""What each worker did in the last seconds, from its growing counters. Pure."""

from __future__ import annotations

from typing import NamedTuple

from dynamo_cli.messages.telemetry import WorkerStats
from dynamo_cli.watch.window import WindowSum

HIT_WINDOW_S = 60

_WINDOWS = {
    "prompt_tokens": 10,
    "output_tokens": 10,
    "prefix_cache_queries_tokens": HIT_WINDOW_S,
    "prefix_cache_hits_tokens": HIT_WINDOW_S,
}


class Rates(NamedTuple):
    """Tokens per second over 10 s, and the hit ratio over a minute; None before any prompt."""

    prompt_tokens_per_s: float
    output_tokens_per_s: float
    recent_hit_ratio: float | None


class WorkerRates:
    """One worker, over all its lives."""

    def __init__(self) -> None:
        self._windows = {name: WindowSum(seconds) for name, seconds in _WINDOWS.items()}
        self._last: dict[str, int] = {}

    def report(self, stats: WorkerStats, now_ns: int) -> None:
        """Totals of this life of the worker."""
        for name, window in self._windows.items():
            value: int = getattr(stats, name)
            if (new := value - self._last.get(name, 0)) > 0:
                window.add(new, now_ns)
            self._last[name] = value

    def gone(self) -> None:
        """A life of the worker ended: the next one counts from 0."""
        self._last = {}

    def view(self, now_ns: int) -> Rates:
        """As of now."""
        queries = self._windows["prefix_cache_queries_tokens"].total(now_ns)
        hits = self._windows["prefix_cache_hits_tokens"].total(now_ns)
        return Rates(
            self._windows["prompt_tokens"].rate(now_ns),
            self._windows["output_tokens"].rate(now_ns),
            ratio(hits, queries),
        )


def ratio(part: float, whole: float) -> float | None:
    """Return ``part / whole``; None if the whole is 0, because nothing was measured yet."""
    return part / whole if whole else None
