"""The options of serving as they were typed, before they are resolved. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dynamo_cli.config import (
    DEFAULT_DRAIN_TIMEOUT_S,
    DEFAULT_HOST,
    DEFAULT_KEEPALIVE_S,
    DEFAULT_KV_OVERLAP_WEIGHT,
    DEFAULT_KV_TEMPERATURE,
    DEFAULT_MAX_BODY_BYTES,
    DEFAULT_MIGRATION_LIMIT,
    DEFAULT_MIGRATION_TIMEOUT_S,
    DEFAULT_PORT,
    DEFAULT_PREFILL_ALARM_S,
    DEFAULT_WORKER_TIMEOUT_S,
    KV_COSTS,
    ROUTER_POLICIES,
)

AUTO = "auto"
NO_HOST_CACHE = "0"
NO_DISK_CACHE = "0"
NO_ROUTER = "none"
ROUTERS = (NO_ROUTER, *ROUTER_POLICIES)
LOG_FORMATS = ("text", "json")
VLLM, MOCK = "vllm", "mock"


@dataclass(frozen=True)
class Typed:
    """The options of serving as they were typed, with all their defaults.

    Attributes:
        workers: a number or ``auto``.
        processors: a number or ``auto``.
        engine: `VLLM` or `MOCK`; `engine_profile` and `speedup` are for `MOCK` only.
        router: one of `ROUTERS`; None means no router for one worker, else ``least-loaded``.
        host_cache: a size such as ``64GiB``, ``auto``, or `NO_HOST_CACHE`.
        disk_cache: a folder and a size such as ``/var/cache/kv:200GiB``, or `NO_DISK_CACHE`.
        log_level: level of the whole log; None means ``info``, and less from the engines
            (`resolve_engine.ENGINE_LOG_LEVEL`).
        log_format: one of `LOG_FORMATS`.
        log_file: file that gets every line of the log too.
        log_file_size: size at which that file is rotated.
        ray: the cluster whose nodes run the engines: ``HOST:PORT`` or ``auto``; None: this machine.
        record: file to which a line per successful request is appended.
        keepalive_s: seconds after which a connection without a request is closed.
        engine_args: options for vLLM, whose names have been checked.
    """

    model: str
    served_names: Sequence[str] | None = None
    max_model_len: str | None = None
    block_size: int | None = None
    workers: str = "1"
    processors: str = AUTO
    worker_tp: int = 1
    engine_threads: int | None = None
    prefill_chunk_tokens: int | None = None
    engine: str = VLLM
    engine_profile: str | None = None
    speedup: float | None = None
    reuse_gpus: bool = False
    router: str | None = None
    kv_cost: str = KV_COSTS[0]
    kv_overlap_weight: float = DEFAULT_KV_OVERLAP_WEIGHT
    kv_temperature: float = DEFAULT_KV_TEMPERATURE
    debug_headers: bool = False
    prefill_workers: int = 0
    prefill_tp: int = 1
    conditional_disagg: bool = False
    max_local_prefill_length: int | None = None
    max_prefill_queue_size: int | None = None
    kv_transfer: str | None = None
    prefill_alarm_s: float = DEFAULT_PREFILL_ALARM_S
    host_cache: str = NO_HOST_CACHE
    host_cache_min_tokens: int = 0
    disk_cache: str = NO_DISK_CACHE
    ray: str | None = None
    migration_limit: int = DEFAULT_MIGRATION_LIMIT
    migration_timeout_s: float = DEFAULT_MIGRATION_TIMEOUT_S
    worker_timeout_s: float = DEFAULT_WORKER_TIMEOUT_S
    first_token_timeout_s: float = 0.0
    host: str = DEFAULT_HOST
    http_port: int = DEFAULT_PORT
    api_keys: Sequence[str] = ()
    enable_admin: bool = False
    allowed_hosts: Sequence[str] | None = None
    allowed_origins: Sequence[str] | None = None
    allowed_methods: Sequence[str] | None = None
    allowed_headers: Sequence[str] | None = None
    allow_credentials: bool = False
    max_body_bytes: int = DEFAULT_MAX_BODY_BYTES
    max_inflight: int = 0
    keepalive_s: float = DEFAULT_KEEPALIVE_S
    drain_timeout_s: float = DEFAULT_DRAIN_TIMEOUT_S
    log_level: str | None = None
    log_format: str = LOG_FORMATS[0]
    log_file: Path | None = None
    log_file_size: str = "100MiB"
    access_log: bool = True
    log_prompts: bool = False
    otlp_endpoint: str | None = None
    record: Path | None = None
    engine_args: tuple[str, ...] = ()
