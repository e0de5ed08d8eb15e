"""From what was typed and what the machine has to the plan that the supervisor runs. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from dynamo_cli.cli import limits
from dynamo_cli.cli.machine import Machine
from dynamo_cli.cli.resolve_http import api_keys, listen_host, origin_rules, otlp_endpoint
from dynamo_cli.config import (
    BUILT_IN_MODELS,
    DEFAULT_HOST,
    DEFAULT_KEEPALIVE_S,
    DEFAULT_KV_ARENA_BYTES,
    DEFAULT_MAX_BODY_BYTES,
    DEFAULT_MAX_LOCAL_PREFILL_LENGTH,
    DEFAULT_PORT,
    KV_COSTS,
    KV_POLICY,
    LOOPBACK,
    ROUTER_POLICIES,
    Device,
    Devices,
    EngineConfig,
    FrontendConfig,
    PlacementRule,
    PrefillQueueConfig,
    RouterConfig,
    ServeConfig,
    SimulationConfig,
)
from dynamo_cli.engines.mock.options import sized
from dynamo_cli.engines.mock.profile import load
from dynamo_cli.engines.vllm import options, values
from dynamo_cli.errors import ResourceError, UsageError
from dynamo_cli.supervisor.placement import groups_of, place, sharers
from dynamo_cli.units import MIB

AUTO = "auto"
NO_ROUTER = "none"
SEVERAL_WORKERS_POLICY = "least-loaded"
ROUTERS = (NO_ROUTER, *ROUTER_POLICIES)
LOG_FORMATS = ("text", "json")
VLLM, MOCK = "vllm", "mock"
DEFAULT_PROFILE = "gpu-8b"
ENGINE_LOG_LEVEL = "error"
"""Of the engines unless a level is asked for: what else they say is for those who debug them."""

ACCESS_LOG_LEVELS = (None, "info", "debug")
"""Asked for, at which there are lines of level INFO."""

LOGGING_PROMPTS = ("--enable-log-requests", "--enable-log-outputs")

KV_SHARE = 0.4
"""Of the memory that is available: the KV caches of all CPU engines together."""

KV_MOST_BYTES, KV_LEAST_BYTES = 4096 * MIB, 64 * MIB
"""Bounds on what this gives to one of them."""

CACHE_SIZES = ("--kv-cache-memory-bytes", "--num-gpu-blocks-override")
"""What vLLM makes of none of them is told after the weights are loaded, as a lack of memory."""

COMPILING = (
    "--enforce-eager",
    "--no-enforce-eager",
    "--optimization-level",
    "--compilation-config",
    "-cc",
)
"""Who gives one of these has made up their mind about compilation."""

STAGES = ("--pipeline-parallel-size", "-pp")
KV_SIZES = ("--gpu-memory-utilization", "--kv-cache-memory-bytes", "--num-gpu-blocks-override")
"""Who gives one of these wants a KV cache of that size."""

CPU_BLOCK = 32
"""Tokens; blocks of an engine on a CPU have a multiple of it."""

CPU_CANNOT = (("--kv-offloading-size",), ("--quantization", "fp8"), ("--enable-sleep-mode",))
"""Options, or options with a value, that engines on a CPU do not have."""

GPU_SHARE = 0.9
"""Of a GPU's memory, when engines share it; as much as vLLM gives to one."""


@dataclass(frozen=True)
class Typed:
    """The command line as it was typed; every default of it stands here.

    Attributes:
        workers: a number or ``auto``.
        engine: VLLM or MOCK, to which `engine_profile` and `speedup` belong.
        router: one of `ROUTERS`.
        log_level: of everything; None: `ENGINE_LOG_LEVEL` for the engines, else info.
        log_format: one of `LOG_FORMATS`.
        record: file for a line per request.
        keepalive_s: after which a connection without a request is closed.
        engine_args: for vLLM, checked.
    """

    model: str
    served_names: Sequence[str] | None = None
    max_model_len: str | None = None
    block_size: int | None = None
    workers: str = "1"
    processors: int = 1
    worker_tp: int = 1
    engine_threads: int | None = None
    engine: str = VLLM
    engine_profile: str | None = None
    speedup: float | None = None
    reuse_gpus: bool = False
    router: str | None = None
    kv_cost: str = KV_COSTS[0]
    kv_overlap_weight: float = 1.0
    kv_temperature: float = 0.0
    debug_headers: bool = False
    prefill_workers: int = 0
    prefill_tp: int = 1
    conditional_disagg: bool = False
    max_local_prefill_length: int | None = None
    max_prefill_queue_size: int | None = None
    kv_transfer: str | None = None
    kv_arena_bytes: int = DEFAULT_KV_ARENA_BYTES
    prefill_alarm_s: float = 5.0
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
    drain_timeout_s: float = 30.0
    log_level: str | None = None
    log_format: str = LOG_FORMATS[0]
    access_log: bool = True
    log_prompts: bool = False
    otlp_endpoint: str | None = None
    record: Path | None = None
    engine_args: tuple[str, ...] = ()


def resolve(typed: Typed, machine: Machine) -> ServeConfig:
    """The plan; the model's path is still what was typed.

    Raises:
        UsageError: options that do not go together.
        ResourceError: the machine has too little.
    """
    _refuse_prompts_in_the_log(typed)
    _check_sizes(typed)
    simulation = _simulation(typed)
    if simulation is not None:
        machine = replace(machine, gpus=())  # it needs none
    elif not machine.gpus:
        _refuse_what_a_cpu_cannot(typed)
    kv_transfer = _kv_transfer(typed, machine)
    # Who says how many workers there shall be takes the GPUs in order, busy ones too.
    auto = typed.workers == AUTO
    gpus = [gpu.device for gpu in machine.gpus if gpu.free or not auto]
    workers = (
        max(1, len(groups_of(typed.worker_tp * _stages(typed), gpus)))
        if auto
        else _count(typed.workers)
    )
    if machine.gpus and not gpus:
        raise ResourceError("every GPU is in use by somebody else; --workers 1 tries nevertheless.")
    prefill_devices, devices, worker_gpus = _devices(typed, workers, gpus)
    engines = workers + typed.prefill_workers
    names = _names(typed)
    on_cpu = not machine.gpus
    engine = EngineConfig(
        model=typed.model,
        path=typed.model,
        served_names=names,
        args=_engine_args(typed, machine, sharers([*prefill_devices, *devices])),
        threads=(
            typed.engine_threads
            or max(
                1,
                machine.cores
                // (workers * typed.worker_tp + typed.prefill_workers * typed.prefill_tp),
            )
        )
        if on_cpu and simulation is None
        else 0,
        kv_cache_limit_bytes=_kv_cache_limit(typed, machine, engines),
        log_level=(typed.log_level or ENGINE_LOG_LEVEL).upper(),
        kv_transfer=kv_transfer,
        kv_arena_bytes=typed.kv_arena_bytes,
        simulation=simulation,
    )
    frontend = FrontendConfig(
        host=listen_host(typed.host),
        port=typed.http_port,
        api_keys=api_keys(typed.api_keys),
        max_body_bytes=typed.max_body_bytes,
        max_inflight=typed.max_inflight,
        keepalive_s=typed.keepalive_s,
        origins=origin_rules(
            typed.allowed_hosts or (),
            typed.allowed_origins or (),
            typed.allowed_methods or (),
            typed.allowed_headers or (),
            credentials=typed.allow_credentials,
        ),
        served_names=names,
        admin=_admin(typed),
        access_log=typed.access_log and typed.log_level in ACCESS_LOG_LEVELS,
        log_prompts=typed.log_prompts,
        otlp_endpoint=otlp_endpoint(typed.otlp_endpoint) if typed.otlp_endpoint else "",
        placement=_placement(typed) if typed.prefill_workers else None,
        record=str(typed.record or ""),
    )
    return ServeConfig(
        engine=engine,
        frontend=frontend,
        processors=typed.processors,
        router=_router(typed, workers),
        debug_headers=typed.debug_headers,
        engine_devices=tuple(devices),
        worker_tp=typed.worker_tp,
        prefill_tp=typed.prefill_tp,
        prefill_devices=tuple(prefill_devices),
        gpus=tuple(worker_gpus),
        placement=_placement(typed),
        prefill_queue=PrefillQueueConfig(typed.prefill_alarm_s),
        drain_timeout_s=typed.drain_timeout_s,
    )


def warnings(typed: Typed) -> list[str]:
    """What works but should be known."""
    if typed.host not in LOOPBACK and not typed.api_keys:
        return [
            f"--host {typed.host} lets everybody who reaches this machine use the model; "
            "--api-key closes it."
        ]
    return []


def _simulation(typed: Typed) -> SimulationConfig | None:
    """What simulated engines are like; checked here, before anything is started."""
    if typed.engine != MOCK:
        if typed.engine_profile is not None or typed.speedup is not None:
            raise UsageError("--engine-profile and --speedup belong to --engine mock.")
        return None
    found = SimulationConfig(typed.engine_profile or DEFAULT_PROFILE, typed.speedup or 1.0)
    sized(load(found.profile), typed.engine_args)
    return found


def _devices(
    typed: Typed, workers: int, gpus: Sequence[Device]
) -> tuple[list[Devices], list[Devices], Sequence[Device]]:
    """GPUs of the prefill workers, who come first, of the workers, and all that these may have."""
    stages = _stages(typed)
    prefill_width, width = typed.prefill_tp * stages, typed.worker_tp * stages
    prefill_gpus, worker_gpus = typed.prefill_workers * prefill_width, workers * width
    if gpus and prefill_gpus and prefill_gpus + worker_gpus > len(gpus):
        if not typed.reuse_gpus:
            raise ResourceError(
                f"{typed.prefill_workers} prefill workers and {workers} workers need "
                f"{prefill_gpus + worker_gpus} GPUs, and {len(gpus)} may be used. Use fewer, "
                "or --reuse-gpus to share them."
            )
        first, rest = gpus, gpus
    else:
        first, rest = gpus[:prefill_gpus], gpus[prefill_gpus:]
    prefill = place(typed.prefill_workers, prefill_width, first, reuse=typed.reuse_gpus)
    return prefill, place(workers, width, rest, reuse=typed.reuse_gpus), rest


def _admin(typed: Typed) -> bool:
    if typed.enable_admin and not typed.api_keys:
        raise UsageError("--enable-admin needs an --api-key, for those who may.")
    return typed.enable_admin


def _kv_transfer(typed: Typed, machine: Machine) -> str:
    """How blocks get from prefill workers to workers."""
    best = "nixl" if machine.gpus and machine.nixl else "shm"
    chosen = typed.kv_transfer or best
    if not typed.prefill_workers:
        _refuse_disaggregation_without_prefill_workers(typed)
    elif chosen == "nixl" and not machine.nixl:
        raise UsageError(
            "--kv-transfer nixl needs the package nixl, which is not installed; "
            "--kv-transfer shm needs nothing."
        )
    elif chosen == "shm" and max(typed.worker_tp, typed.prefill_tp) > 1:
        raise UsageError("--kv-transfer shm is for engines of one GPU; use --kv-transfer nixl.")
    return chosen


def _refuse_disaggregation_without_prefill_workers(typed: Typed) -> None:
    for flag, value, default in (
        ("--prefill-tp", typed.prefill_tp, 1),
        ("--conditional-disagg", typed.conditional_disagg, False),
        ("--max-local-prefill-length", typed.max_local_prefill_length, None),
        ("--max-prefill-queue-size", typed.max_prefill_queue_size, None),
        ("--kv-transfer", typed.kv_transfer, None),
    ):
        if value != default:
            raise UsageError(f"{flag} belongs to --prefill-workers, and there are none.")


def _refuse_prompts_in_the_log(typed: Typed) -> None:
    """vLLM has options of its own that write them."""
    if _given(typed.engine_args, *LOGGING_PROMPTS) and not typed.log_prompts:
        raise UsageError(
            f"{' and '.join(LOGGING_PROMPTS)} write text of requests into the log; "
            "add --log-prompts if that may be."
        )


def _check_sizes(typed: Typed) -> None:
    """Options of ours that vLLM reads; what it would say of them comes seconds later."""
    if typed.max_model_len is not None:
        flag = "--max-model-len"
        values.check(flag, typed.max_model_len, options.known()[flag])
    for given in options.parse(typed.engine_args):
        if given.name in CACHE_SIZES and (
            given.values[0].startswith("-") or given.values[0] == "0"
        ):
            raise UsageError(f"{given.name} must be above 0; not {given.values[0]}.")


def _refuse_what_a_cpu_cannot(typed: Typed) -> None:
    """vLLM finds out in the middle of the start, in words that name neither option nor reason."""
    if typed.block_size is not None and typed.block_size % CPU_BLOCK:
        raise UsageError(
            f"--block-size {typed.block_size}: an engine on a CPU needs a multiple of {CPU_BLOCK}."
        )
    for given in options.parse(typed.engine_args):
        if (given.name, *given.values) in CPU_CANNOT or (given.name,) in CPU_CANNOT:
            raise UsageError(f"{' '.join(given.words)} needs a GPU, and there is none.")


def _placement(typed: Typed) -> PlacementRule:
    """A bound on what is prefilled locally implies that there is a condition."""
    length = typed.max_local_prefill_length
    return PlacementRule(
        conditional=typed.conditional_disagg or length is not None,
        max_local_prefill_length=DEFAULT_MAX_LOCAL_PREFILL_LENGTH if length is None else length,
        max_prefill_queue_size=typed.max_prefill_queue_size,
    )


def _names(typed: Typed) -> tuple[str, ...]:
    """What the API calls the model."""
    names = tuple(typed.served_names or (typed.model,))
    if typed.served_names and not all(name.strip() for name in names):
        raise UsageError("--served-model-name is empty; it is what clients write as model.")
    return names


def _count(workers: str) -> int:
    number = int(workers) if workers.isascii() and workers.isdecimal() else 0
    if not 1 <= number <= limits.MAX_PROCESSES:
        raise UsageError(
            f"--workers is a number from 1 to {limits.MAX_PROCESSES}, or {AUTO}; not {workers!r}."
        )
    return number


def _router(typed: Typed, workers: int) -> RouterConfig | None:
    if typed.router == NO_ROUTER and workers > 1:
        raise UsageError(
            f"--router none is for one worker; {workers} need one of {', '.join(ROUTER_POLICIES)}."
        )
    policy = typed.router or (SEVERAL_WORKERS_POLICY if workers > 1 else NO_ROUTER)
    given = RouterConfig(policy, typed.kv_cost, typed.kv_overlap_weight, typed.kv_temperature)
    if policy != KV_POLICY and given != RouterConfig(policy):
        raise UsageError(
            "--kv-cost, --kv-overlap-weight and --kv-temperature belong to --router kv."
        )
    return None if policy == NO_ROUTER else given


def _engine_args(typed: Typed, machine: Machine, engines_per_gpu: int) -> tuple[str, ...]:
    """vLLM's options: ours under its names, defaults for what was not given, then the rest."""
    args: list[str] = []
    if typed.max_model_len is not None:
        args += ["--max-model-len", typed.max_model_len]
    if typed.block_size is not None:
        args += ["--block-size", str(typed.block_size)]
    if not _given(typed.engine_args, "--scheduling-policy"):
        # Without any X-Priority this is first come, first served.
        args += ["--scheduling-policy", "priority"]
    if not machine.gpus:
        # Compiling takes longer than it saves on a CPU.
        args += [] if _given(typed.engine_args, *COMPILING) else ["--enforce-eager"]
    elif engines_per_gpu > 1 and not _given(typed.engine_args, "--gpu-memory-utilization"):
        args += ["--gpu-memory-utilization", f"{GPU_SHARE / engines_per_gpu:.3f}"]
    return (*args, *typed.engine_args)


def _stages(typed: Typed) -> int:
    """Pipeline stages of an engine, each on GPUs of its own; what vLLM refuses counts as one."""
    values = [
        value or following
        for arg, following in pairwise([*typed.engine_args, ""])
        for flag, _, value in [arg.partition("=")]
        if flag in STAGES
    ]
    return int(values[-1]) if values and values[-1].isdecimal() and int(values[-1]) else 1


def _kv_cache_limit(typed: Typed, machine: Machine, workers: int) -> int:
    """What is left to vLLM grows with the whole machine's memory, for each engine.

    On a GPU that is right, but for the models that come with this package: they fit into a
    corner of it, and filling it takes more than a minute.
    """
    if machine.gpus:
        sized = _given(typed.engine_args, *KV_SIZES)
        return KV_MOST_BYTES if typed.model in BUILT_IN_MODELS and not sized else 0
    share = int(machine.available_bytes * KV_SHARE / workers)
    return max(KV_LEAST_BYTES, min(KV_MOST_BYTES, share)) // MIB * MIB


def _given(args: Sequence[str], *flags: str) -> bool:
    return any(arg.partition("=")[0].partition(".")[0] in flags for arg in args)
