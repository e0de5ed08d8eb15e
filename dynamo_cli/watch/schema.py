"""The state of the whole tree at one moment, as ``/dynamo/snapshot`` shows it."""

from __future__ import annotations

import msgspec

from dynamo_cli.watch.host_cache_schema import HostCacheView
from dynamo_cli.watch.load_schema import ErrorsView, HostView, QueuesView, StageView
from dynamo_cli.watch.node_schema import NodeView


class ProcessView(msgspec.Struct, frozen=True):
    """A process.

    Attributes:
        phase_s: how long it has been in its phase, seconds.
        uptime_s: time since its start, seconds.
        rss_bytes: its resident memory; 0 if it is not known.
        cpu_s: CPU time since its start, seconds.
        cpu_cores: cores that its threads used over the last seconds; 1 is one full core. None if
            it is not known.
        cpu_demand: cores that its threads used or waited for over the last seconds. A process that
            works in one thread cannot do more at 1. None if it is not known, as for engines.
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
    cpu_s: float = 0.0
    cpu_cores: float | None = None
    cpu_demand: float | None = None


class WorkerView(msgspec.Struct, frozen=True):
    """A worker's engine. Counters are totals over all restarts of its process.

    Attributes:
        kv_cache_usage: used share of the KV cache, 0..1.
        num_blocks, block_size: size of the KV cache in blocks, and tokens per block.
        hit_ratio: measured prefix hits / queried prompt tokens, since the start; None before any.
        recent_hit_ratio: the same over the last 60 s.
        *_tokens_per_s: rates over the last 10 s.
        recent_queries_tokens: prompt tokens that `recent_hit_ratio` is made of.
        ttft_*_s, itl_*_s: percentiles over its streamed answers of the last 10 s.
        ttft_samples: number of answers that the percentiles of TTFT are made of.
        asleep: whether it takes no requests until it is woken up.
        kept_requests: number of requests in its memory, running or not.
        max_num_seqs: requests that the engine runs at once; 0 until it is ready.
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
    recent_queries_tokens: int = 0
    ttft_samples: int = 0
    max_num_seqs: int = 0


class RouterWorkerView(msgspec.Struct, frozen=True):
    """A worker as the router sees it.

    Attributes:
        decisions: how often it was chosen, over all restarts of the router.
        active_requests, prefill_blocks, decode_blocks: current load in the router's ledger.
        index_blocks: prefix blocks that it holds according to the router's index.
    """

    worker: int
    decisions: int
    active_requests: int
    prefill_blocks: int
    decode_blocks: int
    index_blocks: int


class HitRatios(msgspec.Struct, frozen=True):
    """Share of prompt tokens found in a cache; None before any prompt.

    Attributes:
        estimated: as the router expects it before the prefill.
        measured: as the engines report it after the prefill.
        limit: as an unbounded cache would hold them: tokens that an earlier prompt had too.
    """

    estimated: float | None
    measured: float | None
    limit: float | None


class RouterView(msgspec.Struct, frozen=True):
    """Totals over all restarts of the router, and its current figures; see `RouterStats`.

    Attributes:
        decisions, active_requests: by worker index; `workers` has the same and more.
        recent, overall: hit ratios of the last 60 s, and since the start.
        load_skew_ratio: active requests of the busiest worker relative to the mean; 1 is even.
        silent_workers: workers that send no events although they should.
        event_blocks_per_s: rate over the last 10 s.
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
    """The current load of a processor; see `ProcessorStats`."""

    processor: int
    requests: int
    engine_requests: int
    placed: int
    queries: int
    calls: int
    preparing: int = 0


class PrefillView(msgspec.Struct, frozen=True):
    """The prefill queue, and totals of disaggregation over all restarts of its processes.

    Attributes:
        depth_jobs, depth_tokens: waiting jobs and their tokens.
        oldest_age_s: how long the oldest of them has waited.
        in_flight_jobs, in_flight_tokens: jobs that prefill workers have, and their tokens.
        alarm: whether the oldest job has waited too long.
        taken: jobs that the queue has accepted.
        ended, refused, returned: jobs by reason.
        placements: prefills by ``remote:reason`` and ``local:reason``.
        fallbacks: remote prefills that were done locally after all, by reason.
        copies, nbytes, copy_s: copies of KV blocks, their bytes and time, by direction (save,
            load).
        failures: failed transfers by reason.
        away: requests whose prefill runs on a prefill worker now.
        kept: further requests that workers remember; see `TransferStats`.
        queue_time_*_s, prefill_time_*_s: percentiles of the last 60 s.
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
    kept: int = 0


class GpuView(msgspec.Struct, frozen=True):
    """A GPU (or MIG instance) with an engine. A figure is None if the driver does not report it.

    Attributes:
        gpu: its number in PCI bus order; ``0:1`` is the second instance of GPU 0.
        product: the manufacturer's name of it.
        engines: names of the processes that run on it.
        utilization: share of the last sampling period in which it computed, 0..1.
        memory_*_bytes: memory of the GPU or of the instance, used by all processes.
        power_*_watts, temperature_c: figures of the whole GPU.
        uncorrected_ecc_errors: memory errors of the whole GPU since the driver was loaded.
        xids: number of errors since the frontend started, by NVIDIA's number of the kind.
        problem: why it cannot be read; empty if it can.
        engine_bytes: memory of the GPU that each engine's process uses, by name of the process, as
            far as the driver tells.
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
    engine_bytes: dict[str, int] = {}


class TrafficView(msgspec.Struct, frozen=True):
    """Requests and tokens: totals since the start, rates and percentiles of the last 10 s.

    Attributes:
        requests, received: requests that ended, and requests that came.
        in_flight: requests in progress.
        prompt_tokens, cached_tokens: of answered requests.
        prompt_tokens_per_s: of prompts whose first token the engines have made.
        ttft_*_s: time from arrival to the first token of streamed answers, seconds.
        itl_*_s: time between the tokens of streamed answers, seconds.
        hit_ratio: cached / prompt tokens of answered requests, as measured by the engines.
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


class RecentMove(msgspec.Struct, frozen=True, rename={"source": "from", "target": "to"}):
    """A request that had to leave a process.

    Attributes:
        request_id: the client's id.
        role: role of the processes: worker or processor.
        source, target: names of the process that it left, and of the one that it went to; None: no
            process could take it. They are called ``from`` and ``to`` in JSON.
        reason: why it left, such as ``died``.
        output_tokens: number of tokens that its answer had at that time.
        age_s: time since then, seconds.
    """

    request_id: str
    role: str
    source: str
    target: str | None
    reason: str
    output_tokens: int
    age_s: float


class MovesView(msgspec.Struct, frozen=True):
    """Moves of requests to another process because theirs could not end them, since the start.

    Each move of a request counts, and each of its prompts if it has several.

    Attributes:
        moved: number of moves by reason.
        not_moved: number of requests that no process could take in time, by reason; they got an
            error.
        longest_gap_s: the longest time from the loss of a process to the next token, of requests
            that have ended; None before any.
        recent: the last of both kinds, newest first.
    """

    moved: dict[str, int] = {}
    not_moved: dict[str, int] = {}
    longest_gap_s: float | None = None
    recent: list[RecentMove] = []


class AlarmView(msgspec.Struct, frozen=True):
    """Something that works worse than it should.

    Attributes:
        kind: short name, which stays the same while the text changes.
        text: what is wrong.
        advice: what to do.
        gpu: number of the GPU that it is about; empty if it is about none.
    """

    kind: str
    text: str
    advice: str
    gpu: str = ""


class Snapshot(msgspec.Struct, frozen=True):
    """The whole tree at one moment.

    Attributes:
        uptime_s: time since the start of the frontend.
        url: where the frontend listens; empty before it does.
        serving: whether requests can be served.
        reason: why requests cannot be served, if they cannot.
        alarms: what works worse than it should, and what to do.
        models: names that the API answers to.
        target_workers: wanted number of workers; the actual one differs while workers start or end.
        offered_nodes: nodes that have joined the cluster and run nothing yet, with their free GPUs.
        unrouted_requests: requests placed without the router although there is one, by processor.
        links: bytes that the frontend has sent and that are not read yet, by peer.
        refused_sends: messages that full links of the frontend refused.
        unwritten_log_lines: log lines that could not be written to the output or the log file.
        processors: current load of each processor.
        calls: answers that the frontend waits for.
        gpus: GPUs that engines run on.
        moves: requests that moved to another process because theirs could not end them.
        host_cache: the cache in the host's memory; None if there is none.
        queues: where requests wait.
        stages: how long the stages of the last requests took.
        recent_errors: requests that ended with an error lately.
        host: what the machine has left.
        odd: remarks on workers that differ from the others, the strongest first.
        nodes: the other nodes of a run on several machines.
        recorded_requests: number of requests that were recorded since the start; None without
            ``--record``.
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
    moves: MovesView = MovesView()
    host_cache: HostCacheView | None = None
    queues: QueuesView = QueuesView()
    stages: list[StageView] = []
    recent_errors: ErrorsView = ErrorsView()
    host: HostView = HostView()
    odd: list[str] = []
    recorded_requests: int | None = None
    offered_nodes: dict[str, int] = {}
    nodes: list[NodeView] = []

    @property
    def warnings(self) -> list[str]:
        """The alarms as sentences."""
        return [f"{alarm.text}: {alarm.advice}" for alarm in self.alarms]
