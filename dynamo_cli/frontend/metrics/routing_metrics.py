"""Metrics of the router."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import accumulate, zip_longest

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from dynamo_cli.messages.routing import DECISION_BOUNDS_US
from dynamo_cli.watch.schema import RouterView

US = 1e-6


def of(router: RouterView) -> Iterator[Metric]:
    """All metric families of the router."""
    decisions = CounterMetricFamily(
        "dynamo_llm_router_decisions", "Routing decisions.", labels=["worker", "policy"]
    )
    for worker, count in router.decisions.items():
        decisions.add_metric([str(worker), router.policy], count)
    yield decisions
    yield _decision_time(router)
    yield from _totals(router)
    yield from _state(router)
    for name, text in (
        ("active_requests", "Requests placed on a worker and not ended."),
        ("prefill_blocks", "Blocks that a worker has yet to prefill."),
        ("decode_blocks", "Blocks in use on a worker."),
        ("index_blocks", "Prefix blocks that a worker is known to hold."),
    ):
        metric = GaugeMetricFamily(f"dynamo_llm_router_{name}", text, labels=["worker"])
        for view in router.workers:
            metric.add_metric([str(view.worker)], getattr(view, name))
        yield metric


def _decision_time(router: RouterView) -> Metric:
    """The histogram of decision times, in seconds."""
    bounds = [f"{bound * US:g}" for bound in DECISION_BOUNDS_US]
    counts = accumulate(router.decision_us)
    buckets = [
        (bound, float(count or 0)) for bound, count in zip_longest([*bounds, "+Inf"], counts)
    ]
    return HistogramMetricFamily(
        "dynamo_llm_router_decision_seconds",
        "Time of a routing decision.",
        buckets=buckets,
        sum_value=router.decision_total_us * US,
    )


def _totals(router: RouterView) -> Iterator[Metric]:
    for name, text, label, values in (
        ("event_blocks", "Blocks in KV events.", "kind", router.event_blocks),
        ("resyncs", "Full resynchronizations of a worker's blocks.", "reason", router.resyncs),
        (
            "released",
            "Ledger entries released without the end of the request.",
            "reason",
            router.released,
        ),
    ):
        yield counter(f"router_{name}", text, label, values.items())
    for name, text in (
        ("prompt_tokens", "Prompt tokens of routed requests after their prefill."),
        ("predicted_tokens", "Prompt tokens predicted to be cached (estimated)."),
        ("measured_tokens", "Prompt tokens found in a cache (measured)."),
        ("over_predicted_requests", "Requests with fewer cached tokens than predicted."),
    ):
        yield CounterMetricFamily(f"dynamo_llm_router_{name}", text, getattr(router, name))


def _state(router: RouterView) -> Iterator[Metric]:
    for name, text, value in (
        ("index_entries", "Different prefix blocks in the index.", router.index_entries),
        ("index_bytes", "Memory of the index, estimated.", router.index_bytes),
        (
            "event_lag_seconds",
            "Age of the newest KV event when it was applied.",
            router.event_lag_us * US,
        ),
        ("waiting_requests", "Requests that no worker can take yet.", router.waiting_requests),
        (
            "load_skew_ratio",
            "Load of the busiest worker divided by the mean.",
            router.load_skew_ratio,
        ),
        (
            "silent_workers",
            "Workers that should send KV events but do not.",
            len(router.silent_workers),
        ),
    ):
        yield GaugeMetricFamily(f"dynamo_llm_router_{name}", text, value)
    ratio = GaugeMetricFamily(
        "dynamo_llm_router_hit_ratio",
        "Share of prompt tokens found in a cache, last 60 s; limit: with an infinite cache.",
        labels=["source"],
    )
    for source in ("estimated", "measured", "limit"):
        if (value := getattr(router.recent, source)) is not None:
            ratio.add_metric([source], value)
    yield ratio


def counter(
    name: str, text: str, label: str, values: Iterable[tuple[str, float]]
) -> CounterMetricFamily:
    """A counter with one label."""
    metric = CounterMetricFamily(f"dynamo_llm_{name}", text, labels=[label])
    for value, count in values:
        metric.add_metric([value], count)
    return metric
