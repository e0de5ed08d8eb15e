"""What is known of routing, from reports of the router and the processors. Pure."""

from __future__ import annotations

from collections import Counter
from itertools import zip_longest
from typing import Any

import msgspec

from dynamo_cli.messages.routing import RouterStats
from dynamo_cli.messages.telemetry import ProcessorStats
from dynamo_cli.watch.rates import HIT_WINDOW_S, ratio
from dynamo_cli.watch.schema import HitRatios, ProcessorView, RouterView, RouterWorkerView
from dynamo_cli.watch.window import WindowSum

_TOTALS = ("decisions", "event_blocks", "resyncs", "released")
_SUMS = (
    "refused_sends",
    "prompt_tokens",
    "predicted_tokens",
    "measured_tokens",
    "over_predicted_requests",
    "decision_total_us",
    "asked_tokens",
    "repeated_tokens",
    "forgotten_blocks",
)
_NOTHING = RouterStats("", {}, {}, 0)


class RoutingState:
    """Totals of routing over all restarts of the router, and its current load figures."""

    def __init__(self) -> None:
        self._now: RouterStats | None = None
        self._before = _NOTHING
        self._unrouted_before: Counter[int] = Counter()
        self._processors: dict[int, ProcessorStats] = {}
        self._windows = {
            name: WindowSum(HIT_WINDOW_S)
            for name in (
                *("prompt_tokens", "predicted_tokens", "measured_tokens"),
                *("asked_tokens", "repeated_tokens"),
            )
        }
        self._event_blocks = WindowSum()

    def router(self, stats: RouterStats, now_ns: int) -> None:
        """Take a report of the router; its counters begin with its process."""
        last = self._now or _NOTHING
        for name, window in self._windows.items():
            if (new := getattr(stats, name) - getattr(last, name)) > 0:
                window.add(new, now_ns)
        moved = sum(stats.event_blocks.values()) - sum(last.event_blocks.values())
        if moved > 0:
            self._event_blocks.add(moved, now_ns)
        self._now = stats

    def router_gone(self) -> None:
        """Keep the totals of a router whose process ended; its load figures are void."""
        if self._now is not None:
            self._before = _added(self._before, self._now)
            self._now = RouterStats(self._now.policy, {}, {}, 0)

    def processor(self, index: int, stats: ProcessorStats) -> None:
        """Take a report of a processor; its counters begin with its process."""
        self._processors[index] = stats

    def processor_gone(self, index: int) -> None:
        """Keep the totals of a processor whose process ended."""
        if (stats := self._processors.pop(index, None)) is not None:
            self._unrouted_before[index] += stats.unrouted

    def unrouted(self) -> dict[int, int]:
        """Number of requests that were placed without the router, by processor."""
        now = Counter({index: stats.unrouted for index, stats in self._processors.items()})
        return dict(self._unrouted_before + now)

    def processors(self) -> list[ProcessorView]:
        """Return the current load of each processor."""
        return [
            ProcessorView(
                processor=index,
                requests=stats.requests,
                engine_requests=stats.engine_requests,
                placed=stats.placed,
                queries=stats.queries,
                calls=stats.calls,
                preparing=stats.preparing,
            )
            for index, stats in sorted(self._processors.items())
        ]

    def view(self, now_ns: int) -> RouterView | None:
        """Return the current view; None if there never was a router."""
        if self._now is None:
            return None
        now, total = self._now, _added(self._before, self._now)
        window = {name: window.total(now_ns) for name, window in self._windows.items()}
        return RouterView(
            policy=now.policy,
            decisions=total.decisions,
            active_requests=now.active_requests,
            workers=[_worker(now, total, worker) for worker in sorted(now.active_requests)],
            refused_sends=total.refused_sends,
            waiting_requests=now.waiting_requests,
            index_entries=now.index_entries,
            index_bytes=now.index_bytes,
            event_blocks=total.event_blocks,
            event_blocks_per_s=self._event_blocks.rate(now_ns),
            event_lag_us=now.event_lag_us,
            resyncs=total.resyncs,
            released=total.released,
            prompt_tokens=total.prompt_tokens,
            predicted_tokens=total.predicted_tokens,
            measured_tokens=total.measured_tokens,
            over_predicted_requests=total.over_predicted_requests,
            recent=_ratios(**window),
            overall=_ratios(**{name: getattr(total, name) for name in self._windows}),
            forgotten_blocks=total.forgotten_blocks,
            load_skew_ratio=_skew(list(now.active_requests.values())),
            silent_workers=now.silent_workers,
            decision_us=total.decision_us,
            decision_total_us=total.decision_total_us,
            entries=now.entries,
            promised_blocks=now.promised_blocks,
        )


def _worker(now: RouterStats, total: RouterStats, worker: int) -> RouterWorkerView:
    return RouterWorkerView(
        worker=worker,
        decisions=total.decisions.get(worker, 0),
        active_requests=now.active_requests[worker],
        prefill_blocks=now.prefill_blocks.get(worker, 0),
        decode_blocks=now.decode_blocks.get(worker, 0),
        index_blocks=now.index_blocks.get(worker, 0),
    )


def _ratios(
    prompt_tokens: float,
    predicted_tokens: float,
    measured_tokens: float,
    asked_tokens: float,
    repeated_tokens: float,
) -> HitRatios:
    return HitRatios(
        ratio(predicted_tokens, prompt_tokens),
        ratio(measured_tokens, prompt_tokens),
        ratio(repeated_tokens, asked_tokens),
    )


def _skew(active: list[int]) -> float:
    """Load of the busiest worker relative to the mean; 1 if all have the same."""
    return max(active) * len(active) / sum(active) if any(active) else 1.0


def _added(before: RouterStats, now: RouterStats) -> RouterStats:
    """Add the counters of two routers; everything else is taken from `now`."""
    added: dict[str, Any] = {name: getattr(before, name) + getattr(now, name) for name in _SUMS}
    for name in _TOTALS:
        added[name] = dict(Counter(getattr(before, name)) + Counter(getattr(now, name)))
    pairs = zip_longest(before.decision_us, now.decision_us, fillvalue=0)
    added["decision_us"] = [one + other for one, other in pairs]
    return msgspec.structs.replace(now, **added)
