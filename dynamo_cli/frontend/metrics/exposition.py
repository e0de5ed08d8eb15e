"""Makes the page of `/metrics` from the meter and the snapshot."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from prometheus_client import generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from dynamo_cli.frontend.after.recorder import Recorder
from dynamo_cli.frontend.metrics import (
    gpu_metrics,
    host_cache_metrics,
    load_metrics,
    move_metrics,
    node_metrics,
    prefill_metrics,
    routing_metrics,
    vllm_metrics,
)
from dynamo_cli.frontend.metrics.routing_metrics import counter as _counter
from dynamo_cli.topology import ProcessId, Role
from dynamo_cli.watch.engine_counts import EngineTotals
from dynamo_cli.watch.meter import Meter
from dynamo_cli.watch.prefill import PrefillState
from dynamo_cli.watch.schema import Snapshot

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class _WorkerMetric(NamedTuple):
    """A field of `WorkerView`, exported under our name and under vLLM's."""

    family: type[GaugeMetricFamily] | type[CounterMetricFamily]
    field: str
    ours: str
    theirs: str
    text: str


_GAUGE, _COUNTER = GaugeMetricFamily, CounterMetricFamily
# fmt: off
_WORKER_METRICS = (
    _WorkerMetric(_GAUGE, "num_running_reqs", "running_requests", "num_requests_running",
                  "Requests in the engine's batch."),
    _WorkerMetric(_GAUGE, "num_waiting_reqs", "waiting_requests", "num_requests_waiting",
                  "Requests that wait for the engine."),
    _WorkerMetric(_GAUGE, "kv_cache_usage", "kv_cache_usage_ratio", "kv_cache_usage_perc",
                  "Used share of the KV cache, 0 to 1."),
    _WorkerMetric(_COUNTER, "prefix_cache_queries_tokens", "prefix_cache_queries_tokens",
                  "prefix_cache_queries", "Prompt tokens looked up in the cache (measured)."),
    _WorkerMetric(_COUNTER, "prefix_cache_hits_tokens", "prefix_cache_hits_tokens",
                  "prefix_cache_hits", "Prompt tokens found in the cache (measured)."),
    _WorkerMetric(_COUNTER, "prompt_tokens", "worker_prompt_tokens", "prompt_tokens",
                  "Prompt tokens prefilled."),
    _WorkerMetric(_COUNTER, "output_tokens", "worker_output_tokens", "generation_tokens",
                  "Tokens generated."),
    _WorkerMetric(_COUNTER, "preemptions", "preemptions", "num_preemptions",
                  "Requests preempted for lack of KV blocks."),
)
# fmt: on


def render(
    meter: Meter,
    snapshot: Snapshot,
    prefill: PrefillState,
    recorder: Recorder | None,
    totals: EngineTotals | None = None,
) -> bytes:
    """The whole page in the text format of Prometheus; see `parts`."""
    return b"".join(parts(meter, snapshot, prefill, recorder, totals or EngineTotals()))


def parts(
    meter: Meter,
    snapshot: Snapshot,
    prefill: PrefillState,
    recorder: Recorder | None,
    totals: EngineTotals,
) -> Iterator[bytes]:
    """The page, one family of metrics at a time, so that the loop can serve streams in between.

    Args:
        totals: what engines report for metrics only.
    """
    for family in _Page(meter, snapshot, prefill, recorder, totals).collect():
        yield generate_latest(_One(family))


class _One(Collector):
    """One family."""

    def __init__(self, family: Metric) -> None:
        self._family = family

    def collect(self) -> Iterator[Metric]:
        yield self._family


class _Page:
    """One scrape."""

    def __init__(
        self,
        meter: Meter,
        snapshot: Snapshot,
        prefill: PrefillState,
        recorder: Recorder | None,
        totals: EngineTotals,
    ) -> None:
        self._meter = meter
        self._recorder = recorder
        self._prefill = prefill
        self._totals = totals
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        """All families."""
        yield from _requests(self._meter)
        yield from move_metrics.of(self._meter.moves)
        yield from _latencies(self._meter)
        yield from _workers(self._snapshot)
        yield from vllm_metrics.of(self._meter, self._snapshot, self._totals)
        yield from _tree(self._snapshot)
        yield from load_metrics.of(self._snapshot, self._meter.stages)
        if self._snapshot.router is not None:
            yield from routing_metrics.of(self._snapshot.router)
        if self._snapshot.prefill is not None:
            yield from prefill_metrics.of(self._snapshot.prefill, self._prefill)
        if self._snapshot.host_cache is not None:
            yield from host_cache_metrics.of(self._snapshot.host_cache, self._snapshot.workers)
        if self._snapshot.gpus:
            yield from gpu_metrics.of(self._snapshot.gpus)
        if self._snapshot.nodes:
            yield from node_metrics.of(self._snapshot.nodes)
        if self._recorder is not None:
            yield from _record(self._recorder)


def _requests(meter: Meter) -> Iterator[Metric]:
    requests = CounterMetricFamily(
        "dynamo_llm_requests", "Requests that ended.", labels=["endpoint", "status"]
    )
    for (endpoint, status), count in meter.requests.items():
        requests.add_metric([endpoint, str(status)], count)
    yield requests
    yield GaugeMetricFamily(
        "dynamo_llm_requests_in_flight", "Requests in flight now.", meter.in_flight
    )
    for name, value, text in (
        ("prompt", meter.prompt_tokens, "Prompt tokens of answered requests."),
        ("cached_prompt", meter.cached_tokens, "Of those, found in a prefix cache (measured)."),
        ("output", meter.output_tokens, "Tokens generated for answered requests."),
    ):
        yield CounterMetricFamily(f"dynamo_llm_{name}_tokens", text, value)
    yield _counter("errors", "Requests that failed.", "kind", meter.errors.items())
    yield _counter("aborts", "Requests aborted.", "reason", meter.aborts.items())
    yield _counter("traces", "Traced requests, by export.", "outcome", meter.traces.items())
    yield CounterMetricFamily(
        "dynamo_llm_lost_access_lines",
        "Answers missing from the access log.",
        meter.lost_access_lines,
    )


def _record(recorder: Recorder) -> Iterator[Metric]:
    yield CounterMetricFamily(
        "dynamo_llm_recorded_requests", "Requests written to the record.", recorder.recorded
    )
    yield _counter(
        "unrecorded_requests",
        "Requests missing from the record.",
        "reason",
        list(recorder.lost.items()),
    )


def _latencies(meter: Meter) -> Iterator[Metric]:
    for name, text, histogram in (
        ("ttft", "Arrival to the first token, streamed answers.", meter.ttft),
        ("itl", "Gaps between tokens, streamed answers.", meter.itl),
        ("e2e", "Arrival to the end of the answer, successful answers.", meter.e2e),
    ):
        yield HistogramMetricFamily(
            f"dynamo_llm_{name}_seconds",
            text,
            buckets=histogram.cumulative(),
            sum_value=histogram.total,
        )


def _workers(snapshot: Snapshot) -> Iterator[Metric]:
    model = snapshot.models[0] if snapshot.models else ""
    for entry in _WORKER_METRICS:
        ours = entry.family(f"dynamo_llm_{entry.ours}", entry.text, labels=["worker"])
        theirs = entry.family(f"vllm:{entry.theirs}", entry.text, labels=["engine", "model_name"])
        for worker in snapshot.workers:
            value = float(getattr(worker, entry.field))
            ours.add_metric([str(worker.worker)], value)
            theirs.add_metric([str(worker.worker), model], value)
        yield ours
        yield theirs


def _tree(snapshot: Snapshot) -> Iterator[Metric]:
    yield GaugeMetricFamily("dynamo_llm_serving", "1 when requests are served.", snapshot.serving)
    yield GaugeMetricFamily(
        "dynamo_llm_uptime_seconds", "Uptime of the frontend.", snapshot.uptime_s
    )
    restarts = [(process.name, process.restarts) for process in snapshot.processes]
    yield _counter("process_restarts", "Restarts of a process.", "process", restarts)
    depths = GaugeMetricFamily(
        "dynamo_llm_link_depth_bytes",
        "Bytes that the frontend sent and the peer has not read yet.",
        labels=["peer"],
    )
    for peer, depth in snapshot.links.items():
        depths.add_metric([peer], depth)
    yield depths
    yield _counter("refused_sends", "Messages a full link refused.", "process", _refused(snapshot))
    yield CounterMetricFamily(
        "dynamo_llm_unwritten_log_lines",
        "Lines of the command's output that could not be written.",
        snapshot.unwritten_log_lines,
    )
    unrouted = [(str(one), count) for one, count in snapshot.unrouted_requests.items()]
    yield _counter(
        "unrouted_requests", "Requests placed without the router.", "processor", unrouted
    )


def _refused(snapshot: Snapshot) -> Iterator[tuple[str, int]]:
    """Refused sends by the name of the sending process."""
    yield Role.FRONTEND, snapshot.refused_sends
    if snapshot.router is not None:
        yield Role.ROUTER, snapshot.router.refused_sends
    if snapshot.host_cache is not None:
        yield Role.HOST_CACHE, snapshot.host_cache.refused_sends
    for worker in snapshot.workers:
        yield ProcessId(Role.WORKER, worker.worker).name, worker.refused_sends
