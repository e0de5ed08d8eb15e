"""Metrics under the names and labels of vLLM's own server, so that its dashboards work here.

Each family has a series per worker, whose label `engine` is the index of the worker: dashboards for
vLLM add them up, as they do for its data-parallel engines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate

from prometheus_client import ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    SummaryMetricFamily,
)

from dynamo_cli.messages.telemetry import STEP_TOKENS_BOUNDS, EngineCounts
from dynamo_cli.watch.engine_counts import EngineTotals
from dynamo_cli.watch.histogram import Histogram
from dynamo_cli.watch.meter import Meter
from dynamo_cli.watch.request_meter import REASONS, WorkerRequests
from dynamo_cli.watch.schema import Snapshot, WorkerView

ENGINE = ["engine", "model_name"]

SECONDS = {
    "time_to_first_token": "Arrival to the first token.",
    "request_time_per_output_token": "Mean time per token after the first, by request.",
    "e2e_request_latency": "Arrival to the end of the answer.",
    "request_queue_time": "Wait in the engine before it begins with a request.",
    "request_prefill_time": "Start of a request in the engine to its first token.",
    "request_decode_time": "First token to the last.",
    "request_inference_time": "Start of a request in the engine to its last token.",
}
TOKENS = {
    "prompt_tokens": "Prompt tokens by request.",
    "generation_tokens": "Generated tokens by request.",
    "max_num_generation_tokens": "Generated tokens by request, all of its answers together.",
    "prefill_kv_computed_tokens": "Prompt tokens by request that were in no cache.",
}

_process = ProcessCollector(registry=None)
"""Describes this process, the frontend."""


def of(meter: Meter, snapshot: Snapshot, totals: EngineTotals) -> Iterator[Metric]:
    """All families that the snapshot and the requests give, besides the plain ones of workers."""
    model = snapshot.models[0] if snapshot.models else ""
    workers = {view.worker: [str(view.worker), model] for view in snapshot.workers}
    yield from _states(snapshot.workers, workers, totals)
    yield from _engines(snapshot.workers, workers, totals)
    yield from _requests(meter, workers)
    yield from _http(meter)
    yield from _process.collect()


Labels = dict[int, list[str]]
"""The values of `ENGINE` for each worker."""


def _states(views: list[WorkerView], labels: Labels, totals: EngineTotals) -> Iterator[Metric]:
    waiting = GaugeMetricFamily(
        "vllm:num_requests_waiting_by_reason",
        "Waiting requests: for room (capacity), or for something else (deferred).",
        labels=[*ENGINE, "reason"],
    )
    asleep = GaugeMetricFamily(
        "vllm:engine_sleep_state",
        "1 in the state in which the engine is. The level of its sleep is not known.",
        labels=[*ENGINE, "sleep_state"],
    )
    for view in views:
        own = labels[view.worker]
        deferred = min(totals.deferred(view.worker), view.num_waiting_reqs)
        waiting.add_metric([*own, "capacity"], view.num_waiting_reqs - deferred)
        waiting.add_metric([*own, "deferred"], deferred)
        asleep.add_metric([*own, "awake"], not view.asleep)
        asleep.add_metric([*own, "weights_offloaded"], view.asleep)
        asleep.add_metric([*own, "discard_all"], 0)
    yield waiting
    yield asleep
    yield _settings(labels, totals)


def _settings(labels: Labels, totals: EngineTotals) -> Metric:
    """A gauge that is always 1; its labels are the settings of the KV cache."""
    told = {worker: totals.settings(worker) for worker in labels}
    names = sorted({name for settings in told.values() for name in settings})
    info = GaugeMetricFamily(
        "vllm:cache_config_info", "Settings of the KV cache.", labels=[*ENGINE, *names]
    )
    for worker, settings in told.items():
        if settings:
            info.add_metric([*labels[worker], *(settings.get(name, "") for name in names)], 1)
    return info


def _engines(views: list[WorkerView], labels: Labels, totals: EngineTotals) -> Iterator[Metric]:
    counts = {view.worker: totals.counts(view.worker) for view in views}
    steps = HistogramMetricFamily(
        "vllm:iteration_tokens_total", "Tokens of an engine step.", labels=ENGINE
    )
    for worker, own in labels.items():
        steps.add_metric(own, _step_buckets(counts[worker]), counts[worker].step_tokens_sum)
    yield steps
    cached = CounterMetricFamily(
        "vllm:prompt_tokens_cached", "Prompt tokens that were in a cache.", labels=ENGINE
    )
    sources = CounterMetricFamily(
        "vllm:prompt_tokens_by_source", "Prompt tokens by source.", labels=[*ENGINE, "source"]
    )
    for view in views:
        own, count = labels[view.worker], counts[view.worker]
        both = count.local_cached_tokens + count.external_cached_tokens
        cached.add_metric(own, both)
        sources.add_metric([*own, "local_compute"], max(0, view.prompt_tokens - both))
        sources.add_metric([*own, "local_cache_hit"], count.local_cached_tokens)
        sources.add_metric([*own, "external_kv_transfer"], count.external_cached_tokens)
    yield cached
    yield sources
    if any(count.drafts for count in counts.values()):
        yield from _drafts(labels, counts)


def _step_buckets(counts: EngineCounts) -> list[tuple[str, float]]:
    names = [*(str(float(bound)) for bound in STEP_TOKENS_BOUNDS), "+Inf"]
    running = list(accumulate(counts.step_tokens)) or [0] * len(names)
    return [(name, float(value)) for name, value in zip(names, running, strict=True)]


def _drafts(labels: Labels, counts: dict[int, EngineCounts]) -> Iterator[Metric]:
    """Speculative decoding."""
    values: dict[str, Callable[[EngineCounts], int]] = {
        "drafts": lambda count: count.drafts,
        "draft_tokens": lambda count: count.draft_tokens,
        "accepted_tokens": lambda count: count.accepted_tokens,
    }
    for name, value in values.items():
        family = CounterMetricFamily(
            f"vllm:spec_decode_num_{name}", f"Speculative decoding: {name}.", labels=ENGINE
        )
        for worker, own in labels.items():
            family.add_metric(own, value(counts[worker]))
        yield family
    positions = CounterMetricFamily(
        "vllm:spec_decode_num_accepted_tokens_per_pos",
        "Accepted tokens by their position in the draft.",
        labels=[*ENGINE, "position"],
    )
    for worker, own in labels.items():
        for position, count in enumerate(counts[worker].accepted_by_position):
            positions.add_metric([*own, str(position)], count)
    yield positions


def _requests(meter: Meter, labels: Labels) -> Iterator[Metric]:
    ended = CounterMetricFamily(
        "vllm:request_success", "Requests that ended.", labels=[*ENGINE, "finished_reason"]
    )
    of_workers = [(own, meter.by_worker.workers[worker]) for worker, own in labels.items()]
    for own, requests in of_workers:
        for reason in REASONS:
            ended.add_metric([*own, reason], requests.ended[reason])
    yield ended
    gaps = ((own, meter.workers[worker].all_itl) for worker, own in labels.items())
    yield _histogram("inter_token_latency_seconds", "Gaps between tokens, streamed answers.", gaps)
    for name, text in SECONDS.items():
        yield _histogram(f"{name}_seconds", text, _each(of_workers, "seconds", name))
    for name, text in TOKENS.items():
        yield _histogram(f"request_{name}", text, _each(of_workers, "tokens", name))


def _each(
    of_workers: list[tuple[list[str], WorkerRequests]], kind: str, name: str
) -> Iterator[tuple[list[str], Histogram]]:
    return ((own, getattr(requests, kind)[name]) for own, requests in of_workers)


def _histogram(name: str, text: str, found: Iterable[tuple[list[str], Histogram]]) -> Metric:
    family = HistogramMetricFamily(f"vllm:{name}", text, labels=ENGINE)
    for own, histogram in found:
        family.add_metric(own, histogram.cumulative(), histogram.total)
    return family


def _http(meter: Meter) -> Iterator[Metric]:
    """Requests for the model, as the web framework of vLLM's server counts them."""
    requests = CounterMetricFamily(
        "http_requests", "Requests for the model.", labels=["handler", "method", "status"]
    )
    classes: dict[tuple[str, str], int] = {}
    for (endpoint, status), count in meter.requests.items():
        key = endpoint, f"{status // 100}xx"
        classes[key] = classes.get(key, 0) + count
    for (endpoint, status_class), count in classes.items():
        requests.add_metric([endpoint, "POST", status_class], count)
    yield requests
    durations = SummaryMetricFamily(
        "http_request_duration_seconds",
        "Arrival to the end of the answer, of all requests for the model.",
        labels=["handler", "method"],
    )
    for endpoint, (count, total_s) in meter.durations.items():
        durations.add_metric([endpoint, "POST"], count, total_s)
    yield durations
