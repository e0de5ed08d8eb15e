"""`/metrics`: the meter and the snapshot in Prometheus' text format."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from dynamo_cli.telemetry.meter import Histogram, Meter
from dynamo_cli.telemetry.snapshot import Snapshot, WorkerView

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# (field of WorkerView, our name, vLLM's name, what it is)
_WORKER_GAUGES = (
    (
        "num_running_reqs",
        "running_requests",
        "num_requests_running",
        "Requests in the engine's batch.",
    ),
    (
        "num_waiting_reqs",
        "waiting_requests",
        "num_requests_waiting",
        "Requests that wait for the engine.",
    ),
    (
        "kv_cache_usage",
        "kv_cache_usage_ratio",
        "kv_cache_usage_perc",
        "Used share of the KV cache, 0 to 1.",
    ),
)
_WORKER_COUNTERS = (
    ("prefix_cache_queries_tokens", "prefix_cache_queries_tokens", "prefix_cache_queries", "Prompt tokens looked up in the prefix cache (measured)."),
    ("prefix_cache_hits_tokens", "prefix_cache_hits_tokens", "prefix_cache_hits", "Prompt tokens found in the prefix cache (measured)."),
    ("prompt_tokens", "worker_prompt_tokens", "prompt_tokens", "Prompt tokens prefilled."),
    ("output_tokens", "worker_output_tokens", "generation_tokens", "Tokens generated."),
    ("preemptions", "preemptions", "num_preemptions", "Requests put back for want of KV blocks."),
    ("refused_sends", "worker_refused_sends", "", "Messages that a full link refused."),
)  # fmt: skip


def render(meter: Meter, snapshot: Snapshot) -> bytes:
    """The whole page."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Page(meter, snapshot))
    return generate_latest(registry)


class _Page(Collector):
    """One scrape."""

    def __init__(self, meter: Meter, snapshot: Snapshot) -> None:
        self._meter = meter
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        yield from _requests(self._meter)
        yield from _latencies(self._meter)
        yield from _workers(self._snapshot)
        yield from _tree(self._snapshot)


def _requests(meter: Meter) -> Iterator[Metric]:
    requests = CounterMetricFamily(
        "dynamo_llm_requests", "Requests that ended.", labels=["endpoint", "status"]
    )
    for (endpoint, status), count in meter.requests.items():
        requests.add_metric([endpoint, str(status)], count)
    yield requests
    yield GaugeMetricFamily("dynamo_llm_requests_in_flight", "Requests now.", meter.in_flight)
    for name, value, text in (
        ("prompt", meter.prompt_tokens, "Prompt tokens of ended requests."),
        (
            "cached_prompt",
            meter.cached_tokens,
            "Of those, tokens from the prefix cache (measured).",
        ),
        ("output", meter.output_tokens, "Tokens generated for ended requests."),
    ):
        yield CounterMetricFamily(f"dynamo_llm_{name}_tokens", text, value)
    yield _counter("dynamo_llm_errors", "Failed requests.", "kind", meter.errors.items())
    yield _counter("dynamo_llm_aborts", "Requests aborted.", "reason", meter.aborts.items())


def _latencies(meter: Meter) -> Iterator[Metric]:
    for name, text, histogram in (
        ("ttft", "Arrival to first token, streamed answers.", meter.ttft),
        ("itl", "Gaps between tokens, streamed answers.", meter.itl),
        ("e2e", "Arrival to the end of the answer.", meter.e2e),
    ):
        yield _histogram(f"dynamo_llm_{name}_seconds", text, histogram)


def _histogram(name: str, text: str, histogram: Histogram) -> Metric:
    return HistogramMetricFamily(
        name, text, buckets=histogram.cumulative(), sum_value=histogram.total
    )


def _workers(snapshot: Snapshot) -> Iterator[Metric]:
    for field, ours, theirs, text in _WORKER_GAUGES:
        yield from _per_worker(GaugeMetricFamily, snapshot, field, ours, theirs, text)
    for field, ours, theirs, text in _WORKER_COUNTERS:
        yield from _per_worker(CounterMetricFamily, snapshot, field, ours, theirs, text)


def _per_worker(
    family: type[GaugeMetricFamily] | type[CounterMetricFamily],
    snapshot: Snapshot,
    field: str,
    ours: str,
    theirs: str,
    text: str,
) -> Iterator[Metric]:
    """A value of each worker, under our name and, if it has one, under vLLM's own."""
    metric = family(f"dynamo_llm_{ours}", text, labels=["worker"])
    for worker in snapshot.workers:
        metric.add_metric([str(worker.worker)], _value(worker, field))
    yield metric
    if theirs:
        model = snapshot.models[0] if snapshot.models else ""
        metric = family(f"vllm:{theirs}", text, labels=["engine", "model_name"])
        for worker in snapshot.workers:
            metric.add_metric([str(worker.worker), model], _value(worker, field))
        yield metric


def _value(worker: WorkerView, field: str) -> float:
    return float(getattr(worker, field))


def _tree(snapshot: Snapshot) -> Iterator[Metric]:
    yield GaugeMetricFamily("dynamo_llm_serving", "1 when requests are served.", snapshot.serving)
    yield GaugeMetricFamily("dynamo_llm_uptime_seconds", "Of the frontend.", snapshot.uptime_s)
    restarts = [(process.name, process.restarts) for process in snapshot.processes]
    yield _counter("dynamo_llm_process_restarts", "Restarts.", "process", restarts)
    depths = GaugeMetricFamily(
        "dynamo_llm_link_depth_bytes", "Sent by the frontend and not yet read.", labels=["peer"]
    )
    for peer, depth in snapshot.links.items():
        depths.add_metric([peer], depth)
    yield depths
    yield CounterMetricFamily(
        "dynamo_llm_refused_sends",
        "Messages that full links of the frontend refused.",
        snapshot.refused_sends,
    )
    if snapshot.router is not None:
        decisions = CounterMetricFamily(
            "dynamo_llm_router_decisions", "Routing decisions.", labels=["worker", "policy"]
        )
        for worker, count in snapshot.router.decisions.items():
            decisions.add_metric([str(worker), snapshot.router.policy], count)
        yield decisions


def _counter(name: str, text: str, label: str, values: Iterable[tuple[str, int]]) -> Metric:
    metric = CounterMetricFamily(name, text, labels=[label])
    for value, count in values:
        metric.add_metric([value], count)
    return metric
