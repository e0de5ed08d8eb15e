"""The state of the whole tree at one moment, as `/dynamo/snapshot` gives it."""

from __future__ import annotations

import msgspec


class ProcessView(msgspec.Struct, frozen=True):
    """A process.

    Attributes:
        phase_s: how long it has been in its phase, seconds.
        rss_bytes: main memory that it has; 0 when it is not known.
    """

    name: str
    role: str
    index: int
    phase: str
    reason: str
    pid: int
    phase_s: float
    uptime_s: float
    restarts: int
    device: str
    rss_bytes: int = 0


class WorkerView(msgspec.Struct, frozen=True):
    """A worker's engine; counters are totals over all its lives.

    Attributes:
        kv_cache_usage: 0..1.
        num_blocks, block_size: of its KV cache; blocks, tokens per block.
        hit_ratio: measured prefix hits / queried prompt tokens, since the start; None before any.
        recent_hit_ratio: likewise, of the last 60 s.
        *_tokens_per_s: of the last 10 s.
        ttft_*_s, itl_*_s: of its streamed answers in the last 10 s.
        asleep: it takes no requests until it is woken up.
        kept_requests: that it knows of, running or not.
    """

    worker: int
    num_running_reqs: int
    num_waiting_reqs: int
    kv_cache_usage: float
    num_blocks: int
    block_size: int
    prefix_cache_queries_tokens: int
    prefix_cache_hits_tokens: int
    hit_ratio: float | None
    prompt_tokens: int
    output_tokens: int
    preemptions: int
    steps: int
    refused_sends: int
    prompt_tokens_per_s: float
    output_tokens_per_s: float
    recent_hit_ratio: float | None
    ttft_p50_s: float | None
    ttft_p95_s: float | None
    itl_p95_s: float | None
    asleep: bool = False
    kept_requests: int = 0


class RouterWorkerView(msgspec.Struct, frozen=True):
    """A worker as the router sees it.

    Attributes:
        decisions: how often it was chosen, over all lives of the router.
        active_requests, prefill_blocks, decode_blocks: promised to it now.
        index_blocks: prefix blocks that it is known to hold.
    """

    worker: int
    decisions: int
    active_requests: int
    prefill_blocks: int
    decode_blocks: int
    index_blocks: int


class HitRatios(msgspec.Struct, frozen=True):
    """Share of prompt tokens found in a cache; None before any.

    Attributes:
        estimated: by the router, before.
        measured: by the engines, after.
        limit: what an endless cache would hold: that a prompt before had too.
    """

    estimated: float | None
    measured: float | None
    limit: float | None


class RouterView(msgspec.Struct, frozen=True):
    """What the router did, over all its lives, and what it knows now; see `RouterStats`.

    Attributes:
        decisions, active_requests: by worker index; `workers` has the same and more.
        recent: hit ratios of the last 60 s; `overall` since the start.
        load_skew_ratio: active requests of the busiest worker against the mean; 1 is even.
        silent_workers: that send no events although they should.
        event_blocks_per_s: of the last 10 s.
    """

    policy: str
    decisions: dict[int, int]
    active_requests: dict[int, int]
    workers: list[RouterWorkerView]
    refused_sends: int
    waiting_requests: int
    index_entries: int
    index_bytes: int
    event_blocks: dict[str, int]
    event_blocks_per_s: float
    event_lag_us: float
    resyncs: dict[str, int]
    released: dict[str, int]
    prompt_tokens: int
    predicted_tokens: int
    measured_tokens: int
    over_predicted_requests: int
    recent: HitRatios
    overall: HitRatios
    forgotten_blocks: int
    load_skew_ratio: float
    silent_workers: list[int]
    decision_us: list[int]
    decision_total_us: float
    entries: int = 0
    promised_blocks: int = 0


class ProcessorView(msgspec.Struct, frozen=True):
    """What a processor holds now; see `ProcessorStats`."""

    processor: int
    requests: int
    engine_requests: int
    placed: int
    queries: int
    calls: int


class PrefillWorkerView(msgspec.Struct, frozen=True):
    """A prefill worker's shared memory for KV blocks on their way."""

    worker: int
    arena_used_bytes: int
    arena_bytes: int


class PrefillView(msgspec.Struct, frozen=True):
    """Disaggregation: the prefill queue now, and totals over all lives of its processes.

    Attributes:
        depth_jobs, depth_tokens: that wait; `oldest_age_s` of the oldest.
        in_flight_jobs, in_flight_tokens: that prefill workers have.
        alarm: the oldest has waited too long.
        ended, refused, returned: jobs, by reason.
        placements: prefills by ``remote:reason`` and ``local:reason``.
        fallbacks: remote prefills that were done locally after all, by reason.
        copies, nbytes, copy_s: of KV blocks, by direction (save, load).
        failures: transfers that came to nothing, by reason.
        away: requests that are being prefilled elsewhere now.
        kept: what workers remember of requests beside that; see `TransferStats`.
        queue_time_*_s, prefill_time_*_s: of the last 60 s.
    """

    depth_jobs: int
    depth_tokens: int
    in_flight_jobs: int
    in_flight_tokens: int
    oldest_age_s: float
    alarm: bool
    taken: int
    ended: dict[str, int]
    refused: dict[str, int]
    returned: dict[str, int]
    placements: dict[str, int]
    fallbacks: dict[str, int]
    copies: dict[str, int]
    nbytes: dict[str, int]
    copy_s: dict[str, float]
    failures: dict[str, int]
    away: int
    queue_time_p50_s: float | None
    queue_time_p95_s: float | None
    prefill_time_p50_s: float | None
    prefill_time_p95_s: float | None
    workers: list[PrefillWorkerView]
    kept: int = 0


class GpuView(msgspec.Struct, frozen=True):
    """A GPU (or MIG instance) with an engine; None: the driver does not tell that of it.

    Attributes:
        gpu: its number in the order of the PCI bus; ``0:1`` is the second instance of GPU 0.
        product: the name that the maker gives it.
        engines: names of the processes that run on it.
        utilization: share of the last moments in which it computed, 0..1.
        memory_*_bytes, power_*_watts: of all processes; of an instance its own memory.
        temperature_c, uncorrected_ecc_errors: of the whole GPU; errors since the driver was loaded.
        xids: errors that the driver has reported since the frontend started, by NVIDIA's number.
        problem: why nothing can be read of it; empty when all is well.
    """

    gpu: str
    uuid: str
    product: str
    engines: list[str]
    utilization: float | None = None
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    power_watts: float | None = None
    power_limit_watts: float | None = None
    temperature_c: int | None = None
    uncorrected_ecc_errors: int | None = None
    xids: dict[int, int] = {}
    problem: str = ""


class TrafficView(msgspec.Struct, frozen=True):
    """Requests and tokens: totals since the start, rates and percentiles of the last 10 s.

    Attributes:
        requests: that ended; `received` counts those that came.
        ttft_*_s: arrival to first token of streamed answers, seconds.
        itl_*_s: gaps between tokens of streamed answers, seconds.
        hit_ratio: cached / prompt tokens of answered requests, measured by the engines.
    """

    requests: int
    in_flight: int
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    requests_per_s: float
    prompt_tokens_per_s: float
    output_tokens_per_s: float
    ttft_p50_s: float | None
    ttft_p95_s: float | None
    ttft_p99_s: float | None
    itl_p50_s: float | None
    itl_p95_s: float | None
    hit_ratio: float | None
    received: int = 0


class AlarmView(msgspec.Struct, frozen=True):
    """Something that works worse than it should.

    Attributes:
        kind: a name that stays while the text changes.
        text: what is so.
        advice: what to do.
    """

    kind: str
    text: str
    advice: str


class Snapshot(msgspec.Struct, frozen=True):
    """Everything.

    Attributes:
        uptime_s: of the frontend.
        url: where the frontend listens; empty before it does.
        reason: why nothing is served, when nothing is.
        alarms: what works worse than it should, and what to do.
        target_workers: that there are to be; more or fewer while that changes.
        unrouted_requests: placed without the router although there is one, by processor.
        links: bytes that the frontend has sent and that were not read yet, by peer.
        refused_sends: messages that full links of the frontend refused.
        unwritten_log_lines: that nobody read where the command writes them, or no disk took.
        processors: what they hold.
        calls: that the frontend waits for.
        gpus: that engines run on.
    """

    version: str
    uptime_s: float
    url: str
    serving: bool
    reason: str
    alarms: list[AlarmView]
    models: tuple[str, ...]
    target_workers: int
    processes: list[ProcessView]
    workers: list[WorkerView]
    router: RouterView | None
    unrouted_requests: dict[int, int]
    prefill: PrefillView | None
    traffic: TrafficView
    aborts: dict[str, int]
    errors: dict[str, int]
    links: dict[str, int]
    refused_sends: int
    unwritten_log_lines: int = 0
    processors: list[ProcessorView] = []
    calls: int = 0
    gpus: list[GpuView] = []

    @property
    def warnings(self) -> list[str]:
        """The alarms as sentences."""
        return [f"{alarm.text}: {alarm.advice}" for alarm in self.alarms]
