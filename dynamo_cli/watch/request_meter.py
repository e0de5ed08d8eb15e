"""Histograms of ended requests, by worker, for the metrics that vLLM has of requests. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict

from dynamo_cli.units import SECOND_NS
from dynamo_cli.watch.histogram import Histogram
from dynamo_cli.watch.timelines import CLIENT_CLOSED, RequestRecord

# Upper bounds as in vLLM, so that its dashboards find the bounds that they ask for.
# fmt: off
LATENCY_BOUNDS_S = (
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0,
    480.0, 960.0, 1920.0, 7680.0,
)
TTFT_BOUNDS_S = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
)
ITL_BOUNDS_S = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0,
    40.0, 80.0,
)
LENGTH_BOUNDS_TOKENS = (
    1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 2e5,
    5e5, 1e6,
)
# fmt: on

REASONS = STOP, LENGTH, ABORT, ERROR, REPETITION = (
    "stop",
    "length",
    "abort",
    "error",
    "repetition",
)
"""Why requests end, in vLLM's words."""


class WorkerRequests:
    """Requests that a worker ended.

    Attributes:
        seconds, tokens: histograms, by the middle of their names:
            ``vllm:NAME_seconds`` and ``vllm:request_NAME``.
        ended: number of requests by reason.
    """

    def __init__(self) -> None:
        self.seconds = {
            "time_to_first_token": Histogram(TTFT_BOUNDS_S),
            "request_time_per_output_token": Histogram(ITL_BOUNDS_S),
            "e2e_request_latency": Histogram(LATENCY_BOUNDS_S),
            "request_queue_time": Histogram(LATENCY_BOUNDS_S),
            "request_prefill_time": Histogram(LATENCY_BOUNDS_S),
            "request_decode_time": Histogram(LATENCY_BOUNDS_S),
            "request_inference_time": Histogram(LATENCY_BOUNDS_S),
        }
        self.tokens = {
            "prompt_tokens": Histogram(LENGTH_BOUNDS_TOKENS),
            "generation_tokens": Histogram(LENGTH_BOUNDS_TOKENS),
            "max_num_generation_tokens": Histogram(LENGTH_BOUNDS_TOKENS),
            "prefill_kv_computed_tokens": Histogram(LENGTH_BOUNDS_TOKENS),
        }
        self.ended: Counter[str] = Counter()

    def add(self, record: RequestRecord) -> None:
        """Add a request that ended."""
        reason = reason_of(record)
        self.ended[reason] += 1
        if (ttft_ns := record.ttft_ns) is not None:
            self._observe("time_to_first_token", ttft_ns)
        if reason in (ABORT, ERROR):
            return  # how long it took, and its lengths, say nothing about answers
        self._observe("e2e_request_latency", record.ended_ns - record.arrival_ns)
        self._add_stages(record)
        usage = record.usage
        self.tokens["prompt_tokens"].observe(usage.prompt_tokens)
        self.tokens["generation_tokens"].observe(usage.output_tokens)
        self.tokens["max_num_generation_tokens"].observe(usage.output_tokens)
        self.tokens["prefill_kv_computed_tokens"].observe(
            max(0, usage.prompt_tokens - usage.cached_tokens)
        )

    def _add_stages(self, record: RequestRecord) -> None:
        at = record.timeline
        if not (at.queued_ns and at.scheduled_ns and at.first_token_ns and at.ended_ns):
            return  # it was never in an engine, or moved between two
        self._observe("request_queue_time", at.scheduled_ns - at.queued_ns)
        self._observe("request_prefill_time", at.first_token_ns - at.scheduled_ns)
        self._observe("request_decode_time", at.ended_ns - at.first_token_ns)
        self._observe("request_inference_time", at.ended_ns - at.scheduled_ns)
        if (more := record.usage.output_tokens - 1) > 0:
            self._observe(
                "request_time_per_output_token", (at.ended_ns - at.first_token_ns) // more
            )

    def _observe(self, name: str, elapsed_ns: int) -> None:
        self.seconds[name].observe(max(0, elapsed_ns) / SECOND_NS)


def reason_of(record: RequestRecord) -> str:
    """Why a request ended, in vLLM's words."""
    if not record.error:
        return record.finish_reason if record.finish_reason in REASONS else STOP
    return ABORT if record.status == CLIENT_CLOSED else ERROR


class RequestMeter:
    """The requests of all workers.

    Attributes:
        workers: by worker index.
    """

    def __init__(self) -> None:
        self.workers: defaultdict[int, WorkerRequests] = defaultdict(WorkerRequests)

    def ended(self, record: RequestRecord) -> None:
        """Add a request that ended; one that no worker had does not count."""
        if record.worker is not None:
            self.workers[record.worker].add(record)
