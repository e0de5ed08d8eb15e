"""The figures of the last hour, one sample a second. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple

from dynamo_cli.watch.schema import Snapshot, WorkerView

KEPT, WORKER_KEPT = 3600, 300
"""Number of samples of the whole server, and of each worker."""

RATE_WINDOW_S = 5.0


@dataclass(frozen=True, slots=True)
class Sample:
    """The figures of one second. A figure is None if it was not measured.

    Attributes:
        at_s: uptime of the server, seconds.
        hit_*: hit ratios over the last minute.
        host_*: of the host cache: blocks found / blocks asked for over the last minute, and bytes
            per second that engines load and store; None without one.
    """

    at_s: float
    requests_per_s: float
    in_flight: int
    output_tokens_per_s: float
    ttft_p50_s: float | None
    ttft_p95_s: float | None
    itl_p95_s: float | None
    hit_measured: float | None
    hit_estimated: float | None
    hit_limit: float | None
    event_blocks_per_s: float
    depth_jobs: int
    oldest_age_s: float
    waiting: int = 0
    prompt_tokens_per_s: float = 0.0
    gpu_utilization: float | None = None
    host_found: float | None = None
    host_loads_per_s: float | None = None
    host_stores_per_s: float | None = None


class WorkerSample(NamedTuple):
    """The figures of one worker in one second."""

    running: int
    waiting: int
    kv_cache_usage: float
    output_tokens_per_s: float
    ttft_p95_s: float | None


NO_SAMPLE = WorkerSample(0, 0, 0.0, 0.0, None)


def peak_of(samples: Iterable[WorkerSample]) -> WorkerSample:
    """Return the highest of each figure."""
    columns = list(zip(*samples, strict=True))
    if not columns:
        return NO_SAMPLE
    running, waiting, usage, tokens, ttft = columns
    known = [value for value in ttft if value is not None]
    return WorkerSample(
        max(running), max(waiting), max(usage), max(tokens), max(known, default=None)
    )


@dataclass(frozen=True, slots=True)
class Flow:
    """Rates along the arrows of the picture, per second over the last few seconds; None before
    there are two snapshots."""

    decisions: float | None = None
    pushed: float | None = None
    pulled: float | None = None
    notified: float | None = None


@dataclass(frozen=True, slots=True)
class _DecisionTotals:
    at_s: float
    decisions: int
    pushed: int
    pulled: int
    notified: int


class History:
    """The samples of one server. They are cleared when the server restarts."""

    def __init__(self) -> None:
        self._samples: deque[Sample] = deque(maxlen=KEPT)
        self._totals: deque[_DecisionTotals] = deque()
        self._workers: dict[int, deque[WorkerSample]] = {}

    def add(self, snapshot: Snapshot) -> None:
        """Take a snapshot."""
        now_s = snapshot.uptime_s
        if self._totals and now_s < self._totals[-1].at_s:
            self._samples.clear()
            self._totals.clear()
            self._workers.clear()
        self._totals.append(_totals(snapshot))
        while self._totals[0].at_s < now_s - RATE_WINDOW_S:
            self._totals.popleft()
        if not self._samples or int(self._samples[-1].at_s) != int(now_s):
            self._samples.append(_sample(snapshot))
            self._add_workers(snapshot.workers)

    def _add_workers(self, workers: list[WorkerView]) -> None:
        there = {worker.worker for worker in workers}
        for gone in self._workers.keys() - there:
            del self._workers[gone]
        for worker in workers:
            kept = self._workers.setdefault(worker.worker, deque(maxlen=WORKER_KEPT))
            kept.append(_worker_sample(worker))

    def samples(self) -> tuple[Sample, ...]:
        """Return the samples, oldest first."""
        return tuple(self._samples)

    def workers(self) -> dict[int, tuple[WorkerSample, ...]]:
        """Return the samples of the last minutes of each worker, oldest first."""
        return {worker: tuple(samples) for worker, samples in self._workers.items()}

    def flow(self) -> Flow:
        """Return the rates at the last snapshot."""
        if len(self._totals) < 2:
            return Flow()
        first, last = self._totals[0], self._totals[-1]
        seconds = last.at_s - first.at_s
        if seconds <= 0:
            return Flow()
        return Flow(
            max(last.decisions - first.decisions, 0) / seconds,
            max(last.pushed - first.pushed, 0) / seconds,
            max(last.pulled - first.pulled, 0) / seconds,
            max(last.notified - first.notified, 0) / seconds,
        )


def _totals(snapshot: Snapshot) -> _DecisionTotals:
    router, prefill = snapshot.router, snapshot.prefill
    waiting = prefill.depth_jobs if prefill else 0
    taken = prefill.taken if prefill else 0
    return _DecisionTotals(
        snapshot.uptime_s,
        sum(router.decisions.values()) if router else 0,
        taken,
        taken - waiting,
        prefill.ended.get("done", 0) if prefill else 0,
    )


def _sample(snapshot: Snapshot) -> Sample:
    traffic, router, prefill = snapshot.traffic, snapshot.router, snapshot.prefill
    recent, host = router.recent if router else None, snapshot.host_cache
    return Sample(
        at_s=snapshot.uptime_s,
        requests_per_s=traffic.requests_per_s,
        in_flight=traffic.in_flight,
        output_tokens_per_s=traffic.output_tokens_per_s,
        ttft_p50_s=traffic.ttft_p50_s,
        ttft_p95_s=traffic.ttft_p95_s,
        itl_p95_s=traffic.itl_p95_s,
        hit_measured=_known(recent.measured if recent else None, traffic.hit_ratio),
        hit_estimated=recent.estimated if recent else None,
        hit_limit=recent.limit if recent else None,
        event_blocks_per_s=router.event_blocks_per_s if router else 0.0,
        depth_jobs=prefill.depth_jobs if prefill else 0,
        oldest_age_s=prefill.oldest_age_s if prefill else 0.0,
        waiting=snapshot.queues.waiting,
        prompt_tokens_per_s=traffic.prompt_tokens_per_s,
        gpu_utilization=_mean([gpu.utilization for gpu in snapshot.gpus]),
        host_found=host.recent_found_ratio if host else None,
        host_loads_per_s=host.loaded_bytes_per_s if host else None,
        host_stores_per_s=host.stored_bytes_per_s if host else None,
    )


def _worker_sample(worker: WorkerView) -> WorkerSample:
    return WorkerSample(
        worker.num_running_reqs,
        worker.num_waiting_reqs,
        worker.kv_cache_usage,
        worker.output_tokens_per_s,
        worker.ttft_p95_s,
    )


def _known(first: float | None, second: float | None) -> float | None:
    return second if first is None else first


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None
