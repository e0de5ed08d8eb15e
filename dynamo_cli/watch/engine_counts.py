"""Totals of each worker's engine that only metrics show, over all its restarts. Pure."""

from __future__ import annotations

from collections.abc import Set

from dynamo_cli.messages.request import EngineReady
from dynamo_cli.messages.telemetry import EngineCounts, WorkerStats

NOTHING = EngineCounts()


class EngineTotals:
    """Adds up what engines report, and keeps what they said when they were ready."""

    def __init__(self) -> None:
        self._ended: dict[int, EngineCounts] = {}
        self._now: dict[int, WorkerStats] = {}
        self._settings: dict[int, dict[str, str]] = {}

    def ready(self, engine: EngineReady) -> None:
        """Take what an engine says about itself."""
        self._settings[engine.worker] = engine.cache.settings

    def report(self, stats: WorkerStats) -> None:
        """Take a report of a worker; its counters begin with its process."""
        self._now[stats.worker] = stats

    def gone(self, worker: int) -> None:
        """Keep the totals of a worker whose process ended."""
        self._ended[worker] = self.counts(worker)
        self._now.pop(worker, None)

    def keep(self, workers: Set[int]) -> None:
        """Forget all workers but these."""
        for known in (self._ended, self._now, self._settings):
            for worker in known.keys() - workers:
                del known[worker]

    def counts(self, worker: int) -> EngineCounts:
        """The totals of a worker."""
        stats = self._now.get(worker)
        before = self._ended.get(worker, NOTHING)
        return before + stats.counts if stats is not None else before

    def deferred(self, worker: int) -> int:
        """How many of its waiting requests wait for something else than room."""
        stats = self._now.get(worker)
        return stats.num_deferred_reqs if stats is not None else 0

    def settings(self, worker: int) -> dict[str, str]:
        """Settings of the cache of its engine: name -> value; empty before it was ready."""
        return self._settings.get(worker, {})
