"""Counters and histograms of the requests that pass through the frontend. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict

from dynamo_cli.messages.request import Usage
from dynamo_cli.units import SECOND_NS
from dynamo_cli.watch.failures import FailureLog
from dynamo_cli.watch.histogram import Histogram, merged
from dynamo_cli.watch.moves import MoveLog
from dynamo_cli.watch.request_meter import RequestMeter
from dynamo_cli.watch.stages import StageTimes
from dynamo_cli.watch.timelines import RequestRecord
from dynamo_cli.watch.window import WindowSamples, WindowSum

# Upper bounds in seconds, from one step of a tiny model to a long queue.
# fmt: off
TTFT_BOUNDS_S = (
    0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0,
    2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0,
)
# Those of vLLM, and some below and between: `vllm:inter_token_latency_seconds` has them too.
ITL_BOUNDS_S = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5,
    0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
)
E2E_BOUNDS_S = (
    0.01, 0.05, 0.1, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0,
    40.0, 50.0, 60.0, 120.0, 240.0, 480.0,
)
# fmt: on


class Latency:
    """Recent times to the first token, and gaps between tokens, of one worker's streams.

    Attributes:
        all_itl: the gaps since the start.
    """

    def __init__(self) -> None:
        self.ttft = WindowSamples(limit=1024)
        self.itl = WindowSamples(limit=1024)
        self.all_itl = Histogram(ITL_BOUNDS_S)


class Meter:
    """What requests did, as the frontend saw it.

    Attributes:
        received: number of requests that came.
        requests: number of requests that ended, by (endpoint, status).
        durations: number of requests that ended, and seconds that they took, by endpoint.
        in_flight: number of requests in progress.
        errors: failed requests by kind.
        aborts: aborted requests by reason.
        workers: latencies by worker index.
        by_worker: histograms of requests that ended, as vLLM names them.
        traces: traces of requests by outcome: exported, failed, dropped.
        lost_access_lines: access lines that were dropped because the log was too slow.
        moves: requests that moved to another process because theirs could not end them.
        stages: how long the stages of requests took.
        failures: requests that ended with an error lately.
    """

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()
        self.durations: dict[str, tuple[int, float]] = {}
        self.received = 0
        self.in_flight = 0
        self.errors: Counter[str] = Counter()
        self.aborts: Counter[str] = Counter()
        self.traces: Counter[str] = Counter()
        self.lost_access_lines = 0
        self.moves = MoveLog()
        self.stages = StageTimes()
        self.failures = FailureLog()
        self.prompt_tokens = self.cached_tokens = self.output_tokens = 0
        self.ttft = Histogram(TTFT_BOUNDS_S)
        self._itl = Histogram(ITL_BOUNDS_S)
        self.e2e = Histogram(E2E_BOUNDS_S)
        self.recent_requests = WindowSum()
        self.recent_output = WindowSum()
        self.recent_prompt = WindowSum()
        self.recent_cached = WindowSum()
        self.recent_ttft = WindowSamples()
        self.recent_itl = WindowSamples()
        self.workers: defaultdict[int, Latency] = defaultdict(Latency)
        self.by_worker = RequestMeter()

    @property
    def itl(self) -> Histogram:
        """Gaps between the tokens of all streams since the start."""
        return merged([self._itl, *(worker.all_itl for worker in self.workers.values())])

    def first_token(self, ttft_s: float, now_ns: int, worker: int | None = None) -> None:
        """Note the first tokens of a stream.

        Args:
            ttft_s: time since the arrival of the request.
            now_ns: current time.
            worker: the worker that sent them, if it is known.
        """
        self.ttft.observe(ttft_s)
        self.recent_ttft.add(ttft_s, now_ns)
        if worker is not None:
            self.workers[worker].ttft.add(ttft_s, now_ns)

    def next_token(self, itl_s: float, now_ns: int, worker: int | None = None) -> None:
        """Note further tokens of a stream, `itl_s` after those before."""
        self.recent_itl.add(itl_s, now_ns)
        if worker is None:
            self._itl.observe(itl_s)
            return
        known = self.workers[worker]
        known.all_itl.observe(itl_s)
        known.itl.add(itl_s, now_ns)

    def ended(self, record: RequestRecord) -> None:
        """Note the end of a request; its duration counts only if it succeeded."""
        e2e_s = (record.ended_ns - record.arrival_ns) / SECOND_NS
        self.requests[record.endpoint, record.status] += 1
        count, total_s = self.durations.get(record.endpoint, (0, 0.0))
        self.durations[record.endpoint] = count + 1, total_s + e2e_s
        self.recent_requests.add(1, record.ended_ns)
        self.failures.ended(record.status, record.error, record.ended_ns)
        self.moves.ended(record.moves)
        self.by_worker.ended(record)
        self.stages.add(record)
        if record.status < 400:
            self.e2e.observe(e2e_s)

    def used(self, usage: Usage, now_ns: int) -> None:
        """Add the token counts of an answered request."""
        self.prompt_tokens += usage.prompt_tokens
        self.cached_tokens += usage.cached_tokens
        self.output_tokens += usage.output_tokens
        self.recent_prompt.add(usage.prompt_tokens, now_ns)
        self.recent_cached.add(usage.cached_tokens, now_ns)

    def failed(self, kind: str) -> None:
        """Count a failed request; an empty kind means that it did not fail."""
        if kind:
            self.errors[kind] += 1
