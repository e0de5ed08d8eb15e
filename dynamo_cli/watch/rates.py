"""Recent rates of each worker, from its growing counters. Pure."""

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
    """Tokens per second over 10 s; over a minute the hit ratio, None without prompts, and the
    prompt tokens that it is made of."""

    prompt_tokens_per_s: float
    output_tokens_per_s: float
    recent_hit_ratio: float | None
    recent_queries_tokens: int


class WorkerRates:
    """The rates of one worker, across its restarts."""

    def __init__(self) -> None:
        self._windows = {name: WindowSum(seconds) for name, seconds in _WINDOWS.items()}
        self._last: dict[str, int] = {}

    def report(self, stats: WorkerStats, now_ns: int) -> None:
        """Take a report; its counters begin with the worker's process."""
        for name, window in self._windows.items():
            value: int = getattr(stats, name)
            if (new := value - self._last.get(name, 0)) > 0:
                window.add(new, now_ns)
            self._last[name] = value

    def gone(self) -> None:
        """Note that the process ended; the counters of the next one begin at 0."""
        self._last = {}

    def view(self, now_ns: int) -> Rates:
        """Return the current rates."""
        queries = self._windows["prefix_cache_queries_tokens"].total(now_ns)
        hits = self._windows["prefix_cache_hits_tokens"].total(now_ns)
        return Rates(
            self._windows["prompt_tokens"].rate(now_ns),
            self._windows["output_tokens"].rate(now_ns),
            ratio(hits, queries),
            int(queries),
        )


def ratio(part: float, whole: float) -> float | None:
    """Return ``part / whole``; None if the whole is 0, because nothing was measured yet."""
    return part / whole if whole else None
