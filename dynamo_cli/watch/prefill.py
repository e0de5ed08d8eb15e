"""What is known of disaggregated prefill, from reports of the queue and the workers. Pure."""

from __future__ import annotations

from collections import Counter
from typing import Any

from dynamo_cli.messages.prefill import PrefillQueueStats, TransferStats
from dynamo_cli.watch.histogram import Histogram
from dynamo_cli.watch.schema import PrefillView
from dynamo_cli.watch.window import WindowSamples

WAIT_BOUNDS_S = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0)

_EMPTY_QUEUE = PrefillQueueStats(0, 0, 0, 0, 0.0, False, 0, {}, {}, {}, [], 0)
_QUEUE_COUNTERS = ("ended", "refused", "returned")
TRANSFER_COUNTERS = ("placements", "fallbacks", "copies", "nbytes", "copy_s", "failures")
"""Counters of `TransferStats` that begin with a process."""


class PrefillState:
    """Totals of disaggregated prefill over all restarts of its processes, and the current load.

    Attributes:
        queue_time: histogram of the time from push to lease, seconds.
        prefill_time: histogram of the time from lease to the last block, seconds.
    """

    def __init__(self) -> None:
        self._seen = False
        self._queue = _EMPTY_QUEUE
        self._queue_totals: dict[str, Counter[str]] = {name: Counter() for name in _QUEUE_COUNTERS}
        self._queue_taken = 0
        self._transfers: dict[tuple[bool, int], TransferStats] = {}
        self._transfer_totals: dict[str, Counter[str]] = {
            name: Counter() for name in TRANSFER_COUNTERS
        }
        self._recent_waits, self._recent_prefills = WindowSamples(60), WindowSamples(60)
        self.queue_time, self.prefill_time = Histogram(WAIT_BOUNDS_S), Histogram(WAIT_BOUNDS_S)

    def queue(self, stats: PrefillQueueStats, now_ns: int) -> None:
        """Take a report of the queue; its counters begin with its process."""
        self._seen = True
        self._queue = stats
        for wait_s in stats.waits_s:
            self.queue_time.observe(wait_s)
            self._recent_waits.add(wait_s, now_ns)

    def queue_gone(self) -> None:
        """Keep the totals of a queue whose process ended."""
        for name, totals in self._queue_totals.items():
            totals.update(getattr(self._queue, name))
        self._queue_taken += self._queue.taken
        self._queue = _EMPTY_QUEUE

    def worker(self, stats: TransferStats, now_ns: int) -> None:
        """Take a report of a worker or prefill worker; its counters begin with its process."""
        self._seen = True
        self._transfers[stats.prefill, stats.worker] = stats
        for prefill_s in stats.prefill_s:
            self.prefill_time.observe(prefill_s)
            self._recent_prefills.add(prefill_s, now_ns)

    def worker_gone(self, index: int, *, prefill: bool) -> None:
        """Keep the totals of a worker or prefill worker whose process ended."""
        if (stats := self._transfers.pop((prefill, index), None)) is not None:
            for name, totals in self._transfer_totals.items():
                totals.update(getattr(stats, name))

    def view(self, now_ns: int) -> PrefillView | None:
        """Return the current view; None without disaggregated prefill."""
        if not self._seen:
            return None
        queue = self._queue
        waits = self._recent_waits.percentiles(now_ns, 0.5, 0.95)
        prefills = self._recent_prefills.percentiles(now_ns, 0.5, 0.95)
        return PrefillView(
            depth_jobs=queue.depth_jobs,
            depth_tokens=queue.depth_tokens,
            in_flight_jobs=queue.in_flight_jobs,
            in_flight_tokens=queue.in_flight_tokens,
            oldest_age_s=queue.oldest_age_s,
            alarm=queue.alarm,
            taken=self._queue_taken + queue.taken,
            **self._counters(),
            away=sum(stats.away for stats in self._transfers.values()),
            kept=sum(stats.kept for stats in self._transfers.values()),
            queue_time_p50_s=waits[0],
            queue_time_p95_s=waits[1],
            prefill_time_p50_s=prefills[0],
            prefill_time_p95_s=prefills[1],
        )

    def _counters(self) -> dict[str, Any]:
        """All counters by reason or by direction."""
        counters: dict[str, Any] = {
            name: dict(totals + Counter(getattr(self._queue, name)))
            for name, totals in self._queue_totals.items()
        }
        return counters | {name: self._transfer_total(name) for name in TRANSFER_COUNTERS}

    def _transfer_total(self, name: str) -> dict[str, int]:
        total = Counter(self._transfer_totals[name])
        for stats in self._transfers.values():
            total.update(getattr(stats, name))
        return dict(total)
