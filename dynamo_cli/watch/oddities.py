"""Finds workers that differ from the others. Pure.

Every worker differs a little from the others at any moment. A remark needs a difference that users
notice, enough samples, and a few seconds (`Judge` sees to that); and where several workers have
the same difference, and are more than `MOST_SHARE` of all, none of them is the odd one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from typing import NamedTuple

from dynamo_cli.watch.schema import Snapshot, WorkerView

HOLD_S = 5.0
"""How long a difference must last."""

MOST_SHARE = 0.25
"""If more of the workers than this, and not only one, have a difference, it is not about one of
them."""

MANY_TIMES, MANY_MORE_RUNNING, MANY_MORE_WAITING = 3.0, 8, 4
"""A busy worker has so many times the requests of the others, and so many more."""

SLOW_TIMES, SLOW_P50_TIMES, SLOW_MORE_S = 2.0, 1.5, 0.1
"""A slow one has so many times their TTFT p95 and p50, and a p95 that is so much longer."""

TTFT_SAMPLES = 20
"""The p95 of fewer answers is the time of a single one."""

HIT_GAP, HIT_TOKENS = 0.25, 10_000
"""A cold one finds so much less of its prompts in its cache, in so many tokens of prompts."""


class Oddity(NamedTuple):
    """A remark on a worker.

    Attributes:
        key: what it is about; stays the same while the text changes.
        weight: how strong it is.
        text: the remark.
    """

    key: tuple[str, int]
    weight: float
    text: str


Find = Callable[[WorkerView, list[WorkerView]], tuple[float, str] | None]


def oddities(snapshot: Snapshot) -> list[Oddity]:
    """Return remarks on workers that differ from the others, the strongest first; none if there are
    fewer than two workers."""
    workers = snapshot.workers
    if len(workers) < 2:
        return []
    found = [oddity for what, find in _KINDS.items() for oddity in _of_kind(what, find, workers)]
    return sorted(found, key=lambda oddity: -oddity.weight)


def _of_kind(what: str, find: Find, workers: Sequence[WorkerView]) -> list[Oddity]:
    odd = []
    for worker in workers:
        others = [other for other in workers if other is not worker]
        if (remark := find(worker, others)) is not None:
            weight, text = remark
            odd.append(Oddity((what, worker.worker), weight, f"worker {worker.worker}: {text}"))
    return odd if len(odd) <= max(1, int(MOST_SHARE * len(workers))) else []


def _many(own: int, others: list[int], more: int, what: str) -> tuple[float, str] | None:
    usual = median(others)
    if own - usual < more or own < MANY_TIMES * usual:
        return None
    times = f"{own / usual:.0f} times the others" if usual else f"{own}, the others none"
    return own / max(usual, 1), f"{what} {times}"


def _running(worker: WorkerView, others: list[WorkerView]) -> tuple[float, str] | None:
    running = [one.num_running_reqs for one in others]
    return _many(worker.num_running_reqs, running, MANY_MORE_RUNNING, "running")


def _waiting(worker: WorkerView, others: list[WorkerView]) -> tuple[float, str] | None:
    waiting = [one.num_waiting_reqs for one in others]
    return _many(worker.num_waiting_reqs, waiting, MANY_MORE_WAITING, "waiting")


def _slow(worker: WorkerView, others: list[WorkerView]) -> tuple[float, str] | None:
    known = [other for other in others if other.ttft_samples >= TTFT_SAMPLES]
    high = [other.ttft_p95_s for other in known if other.ttft_p95_s is not None]
    middle = [other.ttft_p50_s for other in known if other.ttft_p50_s is not None]
    p50_s, p95_s = worker.ttft_p50_s, worker.ttft_p95_s
    if worker.ttft_samples < TTFT_SAMPLES or p50_s is None or p95_s is None or not high:
        return None
    usual_s = median(high)
    if p95_s < SLOW_TIMES * usual_s or p95_s - usual_s < SLOW_MORE_S:
        return None
    if p50_s < SLOW_P50_TIMES * median(middle):
        return None
    times = p95_s / max(usual_s, 0.001)
    return times, f"TTFT p95 {times:.1f} times the others"


def _cold(worker: WorkerView, others: list[WorkerView]) -> tuple[float, str] | None:
    ratios = [_hits(other) for other in others]
    known = [ratio for ratio in ratios if ratio is not None]
    own = _hits(worker)
    if own is None or not known or median(known) - own < HIT_GAP:
        return None
    usual = median(known)
    return 1 + usual - own, f"hit rate {own:.0%}, the others {usual:.0%}"


def _hits(worker: WorkerView) -> float | None:
    return worker.recent_hit_ratio if worker.recent_queries_tokens >= HIT_TOKENS else None


_KINDS: dict[str, Find] = {"running": _running, "waiting": _waiting, "slow": _slow, "cold": _cold}
