"""What each worker's engine has reported, with its totals over all its restarts. Pure."""

from __future__ import annotations

from collections.abc import Set
from typing import NamedTuple

from dynamo_cli.messages.request import EngineReady
from dynamo_cli.messages.telemetry import EngineCounts, WorkerStats

COUNTERS = (
    "prefix_cache_queries_tokens",
    "prefix_cache_hits_tokens",
    "prompt_tokens",
    "output_tokens",
    "preemptions",
    "steps",
    "refused_sends",
)
"""Counters of `WorkerStats` that begin with a process."""


class _EndedTotals(NamedTuple):
    """Totals of the processes of a worker that have ended."""

    counters: dict[str, int]
    counts: EngineCounts


_NOTHING = _EndedTotals(dict.fromkeys(COUNTERS, 0), EngineCounts())


class EngineTotals:
    """Adds up what engines report, and keeps what they said when they were ready."""

    def __init__(self) -> None:
        self._ended: dict[int, _EndedTotals] = {}
        self._now: dict[int, WorkerStats] = {}
        self._settings: dict[int, dict[str, str]] = {}

    @property
    def workers(self) -> set[int]:
        """Workers that have reported, or have ended."""
        return self._now.keys() | self._ended.keys()

    def ready(self, engine: EngineReady) -> None:
        """Take what an engine says about itself."""
        self._settings[engine.worker] = engine.cache.settings

    def report(self, stats: WorkerStats) -> None:
        """Take a report of a worker; its counters begin with its process."""
        self._now[stats.worker] = stats

    def gone(self, worker: int) -> None:
        """Keep the totals of a worker whose process ended."""
        self._ended[worker] = _EndedTotals(self.counters(worker), self.counts(worker))
        self._now.pop(worker, None)

    def keep(self, workers: Set[int]) -> None:
        """Forget all workers but these."""
        for known in (self._ended, self._now, self._settings):
            for worker in known.keys() - workers:
                del known[worker]

    def now(self, worker: int) -> WorkerStats | None:
        """The last report of a worker's present process; None if it has sent none."""
        return self._now.get(worker)

    def counters(self, worker: int) -> dict[str, int]:
        """The totals of a worker, by the names of `COUNTERS`."""
        before, stats = self._ended.get(worker, _NOTHING).counters, self._now.get(worker)
        if stats is None:
            return before
        return {name: before[name] + getattr(stats, name) for name in COUNTERS}

    def counts(self, worker: int) -> EngineCounts:
        """Further totals of a worker, which only metrics show."""
        before, stats = self._ended.get(worker, _NOTHING).counts, self._now.get(worker)
        return before + stats.counts if stats is not None else before

    def deferred(self, worker: int) -> int:
        """How many of its waiting requests wait for something else than room."""
        stats = self._now.get(worker)
        return stats.num_deferred_reqs if stats is not None else 0

    def settings(self, worker: int) -> dict[str, str]:
        """Settings of the cache of its engine: name -> value; empty before it was ready."""
        return self._settings.get(worker, {})
