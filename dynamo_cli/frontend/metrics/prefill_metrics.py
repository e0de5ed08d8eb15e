"""Metrics of the prefill queue, prefill workers and KV transfers."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from dynamo_cli.frontend.metrics.routing_metrics import counter
from dynamo_cli.watch.prefill import PrefillState
from dynamo_cli.watch.schema import PrefillView


def of(view: PrefillView, state: PrefillState) -> Iterator[Metric]:
    """All metric families of disaggregated prefill."""
    for name, text in (
        ("depth_jobs", "Jobs that wait for a prefill worker."),
        ("depth_tokens", "Tokens to prefill in waiting jobs."),
        ("in_flight_jobs", "Jobs leased to prefill workers."),
        ("in_flight_tokens", "Tokens to prefill in leased jobs."),
    ):
        yield GaugeMetricFamily(f"dynamo_llm_prefill_queue_{name}", text, getattr(view, name))
    yield GaugeMetricFamily(
        "dynamo_llm_prefill_queue_oldest_age_seconds",
        "Age of the oldest waiting job.",
        view.oldest_age_s,
    )
    for name, text, values in (
        ("prefill_jobs_ended", "Prefill jobs that ended.", view.ended),
        ("prefill_jobs_refused", "Prefill jobs that the queue refused.", view.refused),
        ("prefill_jobs_returned", "Leases that ended without a result.", view.returned),
        ("prefill_fallbacks", "Remote prefills that were done locally instead.", view.fallbacks),
        ("kv_transfer_failures", "KV transfers that failed.", view.failures),
    ):
        yield counter(name, text, "reason", values.items())
    yield _placements(view)
    for name, text, amounts in (
        ("kv_transfers", "Copies of KV blocks.", view.copies),
        ("kv_transfer_bytes", "Bytes of KV blocks copied.", view.nbytes),
        ("kv_transfer_seconds", "Time spent on copies of KV blocks.", view.copy_s),
    ):
        yield counter(name, text, "direction", amounts.items())
    for name, text, histogram in (
        ("prefill_queue_time", "From push to lease.", state.queue_time),
        ("prefill_time", "From lease to the last block.", state.prefill_time),
    ):
        yield HistogramMetricFamily(
            f"dynamo_llm_{name}_seconds",
            text,
            buckets=histogram.cumulative(),
            sum_value=histogram.total,
        )


def _placements(view: PrefillView) -> Metric:
    metric = CounterMetricFamily(
        "dynamo_llm_prefill_placements", "Where prompts were prefilled.", labels=["where", "reason"]
    )
    for name, count in view.placements.items():
        metric.add_metric(name.split(":"), count)
    return metric
