"""Finds workers that differ from the others. Pure."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

from dynamo_cli.watch.schema import Snapshot, WorkerView

MANY_TIMES = 3.0
LEAST_REQUESTS = 3
SLOW_TIMES = 2.0
LEAST_WAIT_S = 0.05
HIT_GAP = 0.25


def oddities(snapshot: Snapshot) -> list[str]:
    """Return remarks on workers that differ from the others, the strongest first; none if there are
    fewer than two workers."""
    workers = snapshot.workers
    if len(workers) < 2:
        return []
    found: list[tuple[float, str]] = []
    for worker in workers:
        others = [other for other in workers if other is not worker]
        found += _busy(worker, others) + _slow(worker, others) + _cold(worker, others)
    return [text for _, text in sorted(found, key=lambda pair: -pair[0])]


def _busy(worker: WorkerView, others: list[WorkerView]) -> list[tuple[float, str]]:
    found = []
    numbers: tuple[tuple[str, Callable[[WorkerView], int]], ...] = (
        ("running", lambda one: one.num_running_reqs),
        ("waiting", lambda one: one.num_waiting_reqs),
    )
    for what, number in numbers:
        own, usual = number(worker), median(map(number, others))
        if own - usual < LEAST_REQUESTS or own < MANY_TIMES * usual:
            continue
        times = f"{own / usual:.0f} × the others" if usual else f"{own}, the others none"
        found.append((own / max(usual, 1), f"worker {worker.worker}: {what} {times}"))
    return found


def _slow(worker: WorkerView, others: list[WorkerView]) -> list[tuple[float, str]]:
    waits = [other.ttft_p95_s for other in others if other.ttft_p95_s is not None]
    own = worker.ttft_p95_s
    if own is None or own < LEAST_WAIT_S or not waits or own < SLOW_TIMES * median(waits):
        return []
    times = own / max(median(waits), 0.001)
    return [(times, f"worker {worker.worker}: TTFT p95 {times:.0f} × the others")]


def _cold(worker: WorkerView, others: list[WorkerView]) -> list[tuple[float, str]]:
    ratios = [other.recent_hit_ratio for other in others if other.recent_hit_ratio is not None]
    own = worker.recent_hit_ratio
    if own is None or not ratios or median(ratios) - own < HIT_GAP:
        return []
    usual = median(ratios)
    return [
        (1 + usual - own, f"worker {worker.worker}: hit rate {own:.0%}, the others {usual:.0%}")
    ]
