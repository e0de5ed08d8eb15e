"""Options of serving, in the order of the help page."""

from __future__ import annotations

from dataclasses import dataclass

import typer

from dynamo_cli.cli import (
    flags,
    flags_cluster,
    flags_failures,
    flags_host_cache,
    flags_http,
    flags_log,
)
from dynamo_cli.plan.typed import Typed


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """The command line of serving as Typer parsed it; `Typed` has what each option means.

    Attributes:
        context: of the command; it holds the options for vLLM and where each value came from.
    """

    context: typer.Context
    model: flags.Model = ""
    served_names: flags.ServedNames = None
    max_model_len: flags.MaxModelLen = None
    block_size: flags.BlockSize = None
    workers: flags.Workers = Typed.workers
    worker_tp: flags.WorkerTp = Typed.worker_tp
    engine: flags.WhichEngine = flags.EngineKind.VLLM
    engine_profile: flags.EngineProfile = None
    speedup: flags.Speedup = None
    reuse_gpus: flags.ReuseGpus = Typed.reuse_gpus
    engine_threads: flags.EngineThreads = None
    prefill_chunk_tokens: flags.PrefillChunkTokens = None
    processors: flags.Processors = Typed.processors
    router: flags.RouterPolicy = None
    kv_cost: flags.KvCostFunction = Typed.kv_cost
    kv_overlap_weight: flags.KvOverlapWeight = Typed.kv_overlap_weight
    kv_temperature: flags.KvTemperature = Typed.kv_temperature
    debug_headers: flags.DebugHeaders = Typed.debug_headers
    prefill_workers: flags.PrefillWorkers = Typed.prefill_workers
    prefill_tp: flags.PrefillTp = Typed.prefill_tp
    conditional_disagg: flags.ConditionalDisagg = Typed.conditional_disagg
    max_local_prefill_length: flags.MaxLocalPrefillLength = None
    max_prefill_queue_size: flags.MaxPrefillQueueSize = None
    kv_transfer: flags.KvTransferMethod = None
    prefill_alarm_s: flags.PrefillAlarm = Typed.prefill_alarm_s
    host_cache: flags_host_cache.Size = Typed.host_cache
    host_cache_min_tokens: flags_host_cache.MinTokens = Typed.host_cache_min_tokens
    disk_cache: flags_host_cache.Disk = Typed.disk_cache
    ray: flags_cluster.Ray = None
    migration_limit: flags_failures.MigrationLimit = Typed.migration_limit
    migration_timeout_s: flags_failures.MigrationTimeout = Typed.migration_timeout_s
    worker_timeout_s: flags_failures.WorkerTimeout = Typed.worker_timeout_s
    first_token_timeout_s: flags_failures.FirstTokenTimeout = Typed.first_token_timeout_s
    host: flags_http.Host = Typed.host
    http_port: flags_http.HttpPort = Typed.http_port
    api_keys: flags_http.ApiKeys = None
    enable_admin: flags_http.EnableAdmin = Typed.enable_admin
    allowed_hosts: flags_http.AllowedHosts = None
    allowed_origins: flags_http.AllowedOrigins = None
    allowed_methods: flags_http.AllowedMethods = None
    allowed_headers: flags_http.AllowedHeaders = None
    allow_credentials: flags_http.AllowCredentials = Typed.allow_credentials
    max_body_bytes: flags_http.MaxBodyBytes = Typed.max_body_bytes
    max_inflight: flags_http.MaxInflight = Typed.max_inflight
    drain_timeout_s: flags_http.DrainTimeout = Typed.drain_timeout_s
    ui: flags.UiMode = flags.Ui.AUTO
    log_level: flags_log.LowestLogLevel = None
    log_format: flags_log.LogForm = Typed.log_format
    log_file: flags_log.File = None
    log_file_size: flags_log.FileSize = Typed.log_file_size
    access_log: flags_log.AccessLog = Typed.access_log
    log_prompts: flags_log.LogPrompts = Typed.log_prompts
    otlp_endpoint: flags_log.OtlpEndpoint = None
    record: flags_log.Record = None
    config_file: flags.ConfigFile = None
    dry_run: flags.DryRun = False
    as_json: flags.AsJson = False
    version: flags.Version = False
