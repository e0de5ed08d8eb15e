"""The state of the whole tree at one moment, as `/dynamo/snapshot` gives it."""

from __future__ import annotations

import msgspec


class ProcessView(msgspec.Struct, frozen=True):
    """A process; `phase_s` is how long it has been in its phase, seconds."""

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


class WorkerView(msgspec.Struct, frozen=True):
    """A worker's engine; counters are totals over all its lives.

    Attributes:
        kv_cache_usage: 0..1.
        num_blocks, block_size: of its KV cache; blocks, tokens per block.
        hit_ratio: measured prefix hits / queried prompt tokens, since the start; None before any.
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


class RouterView(msgspec.Struct, frozen=True):
    """What the router did; by worker index.

    Attributes:
        decisions: total over all its lives.
        active_requests: that it counts as running now.
    """

    policy: str
    decisions: dict[int, int]
    active_requests: dict[int, int]
    refused_sends: int


class TrafficView(msgspec.Struct, frozen=True):
    """Requests and tokens: totals since the start, rates and percentiles of the last 10 s.

    Attributes:
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
    output_tokens_per_s: float
    ttft_p50_s: float | None
    ttft_p95_s: float | None
    ttft_p99_s: float | None
    itl_p50_s: float | None
    itl_p95_s: float | None
    hit_ratio: float | None


class Snapshot(msgspec.Struct, frozen=True):
    """Everything.

    Attributes:
        uptime_s: of the frontend.
        url: where the frontend listens; empty before it does.
        reason: why nothing is served, when nothing is.
        links: bytes that the frontend has sent and that were not read yet, by peer.
        refused_sends: messages that full links of the frontend refused.
    """

    version: str
    uptime_s: float
    url: str
    serving: bool
    reason: str
    models: tuple[str, ...]
    processes: list[ProcessView]
    workers: list[WorkerView]
    router: RouterView | None
    traffic: TrafficView
    aborts: dict[str, int]
    errors: dict[str, int]
    links: dict[str, int]
    refused_sends: int
