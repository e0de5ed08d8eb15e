"""Resolves the configuration of engines, and which GPUs they get. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from dynamo_cli.config import (
    BUILT_IN_MODELS,
    Device,
    Devices,
    EngineConfig,
    SimulationConfig,
)
from dynamo_cli.engines.mock.options import sized
from dynamo_cli.engines.mock.profile import DEFAULT_PROFILE, load
from dynamo_cli.engines.vllm.options import declared
from dynamo_cli.errors import ResourceError, UsageError
from dynamo_cli.plan.machine import Machine
from dynamo_cli.plan.typed import MOCK, Typed
from dynamo_cli.supervisor.gpus import place, sharers
from dynamo_cli.units import MIB, whole_number

ENGINE_LOG_LEVEL = "error"
"""Log level of engines unless one is given: their other lines only help to debug engines."""

KV_SHARE = 0.4
"""Share of the available memory that the KV caches of all CPU engines get together."""

KV_MOST_BYTES, KV_LEAST_BYTES = 4096 * MIB, 64 * MIB
"""Bounds of the KV cache of one CPU engine."""

COMPILING = (
    "--enforce-eager",
    "--no-enforce-eager",
    "--optimization-level",
    "--compilation-config",
    "-cc",
)
"""Options that decide about compilation; our default is then not added."""

STAGES = "--pipeline-parallel-size"
KV_SIZES = ("--gpu-memory-utilization", "--kv-cache-memory-bytes", "--num-gpu-blocks-override")
"""Options that decide the size of the KV cache; our limit is then not set."""

STEP_SIZES = ("--max-num-batched-tokens", "--long-prefill-token-threshold")
"""Options that decide how many prompt tokens a step computes; our limit is then not set."""

PREFILL_CHUNK_ON_GPU, PREFILL_CHUNK_ON_CPU = 2048, 512
"""Prompt tokens of a step while an answer streams."""

CPU_BLOCK = 32
"""Block sizes of an engine on the CPU are multiples of this many tokens."""

CPU_CANNOT = (("--kv-offloading-size",), ("--quantization", "fp8"), ("--enable-sleep-mode",))
"""Options, or options with a value, that engines on the CPU do not support."""

GPU_SHARE = 0.9
"""Share of a GPU's memory for all engines on it together; vLLM's default for one engine."""


def engine_config(
    typed: Typed,
    machine: Machine,
    workers: int,
    placed: Sequence[Devices],
    names: tuple[str, ...],
    kv_transfer: str,
    simulation: SimulationConfig | None,
) -> EngineConfig:
    """The configuration of every engine, which processors get too.

    Args:
        machine: without GPUs when engines are simulated.
        placed: the GPUs of each engine.
        names: names of the model in the API.
    """
    computes_here = not machine.gpus and simulation is None
    return EngineConfig(
        model=typed.model,
        path=typed.model,
        served_names=names,
        args=_engine_args(typed, machine, sharers(placed)),
        threads=(typed.engine_threads or _threads(typed, machine, workers)) if computes_here else 0,
        kv_cache_limit_bytes=_kv_cache_limit(typed, machine, workers + typed.prefill_workers),
        prefill_chunk_tokens=_prefill_chunk(typed, machine, simulation),
        log_level=(typed.log_level or ENGINE_LOG_LEVEL).upper(),
        kv_transfer=kv_transfer,
        simulation=simulation,
    )


def _prefill_chunk(typed: Typed, machine: Machine, simulation: SimulationConfig | None) -> int:
    """Most prompt tokens of a step while an answer streams. Sizes of a step that were given to
    vLLM stay as they are, and profiles of simulated engines were measured without a limit."""
    if typed.prefill_chunk_tokens is not None:
        return typed.prefill_chunk_tokens
    if simulation is not None or is_given(typed.engine_args, *STEP_SIZES):
        return 0
    return PREFILL_CHUNK_ON_GPU if machine.gpus else PREFILL_CHUNK_ON_CPU


def _threads(typed: Typed, machine: Machine, workers: int) -> int:
    """Threads of each rank of each engine on the CPU: its share of the cores."""
    ranks = workers * typed.worker_tp + typed.prefill_workers * typed.prefill_tp
    return max(1, machine.cores // (ranks * stages_of(typed)))


def simulation_of(typed: Typed) -> SimulationConfig | None:
    """How engines are simulated; None when they run vLLM. The profile is checked here."""
    if typed.engine != MOCK:
        if typed.engine_profile is not None or typed.speedup is not None:
            raise UsageError("--engine-profile and --speedup work only with --engine mock.")
        return None
    found = SimulationConfig(typed.engine_profile or DEFAULT_PROFILE, typed.speedup or 1.0)
    sized(load(found.profile), typed.engine_args)
    return found


def devices_of(
    typed: Typed, workers: int, gpus: Sequence[Device]
) -> tuple[list[Devices], list[Devices], Sequence[Device]]:
    """Assign GPUs to engines.

    Returns:
        the GPUs of each prefill worker, which get the first ones; the GPUs of each worker; and all
        GPUs that workers may use.
    """
    stages = stages_of(typed)
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


def check_context(typed: Typed) -> None:
    """Check the length of the context, which vLLM would refuse only seconds after the start."""
    if typed.max_model_len is not None:
        declared.check_value("--max-model-len", typed.max_model_len)


def refuse_what_a_cpu_cannot(typed: Typed) -> None:
    """Refuse options that vLLM rejects late on the CPU, without naming the option or the reason."""
    if typed.block_size is not None and typed.block_size % CPU_BLOCK:
        raise UsageError(
            f"--block-size {typed.block_size}: an engine on a CPU needs a multiple of {CPU_BLOCK}."
        )
    for given in declared.parse(typed.engine_args):
        if (given.name, *given.values) in CPU_CANNOT or (given.name,) in CPU_CANNOT:
            raise UsageError(f"{' '.join(given.words)} needs a GPU, and there is none.")


def _engine_args(typed: Typed, machine: Machine, engines_per_gpu: int) -> tuple[str, ...]:
    """Options for vLLM: ours under vLLM's names, our defaults for others, then the given ones."""
    args: list[str] = []
    if typed.max_model_len is not None:
        args += ["--max-model-len", typed.max_model_len]
    if typed.block_size is not None:
        args += ["--block-size", str(typed.block_size)]
    if not is_given(typed.engine_args, "--scheduling-policy"):
        # While no request has an X-Priority, this is first come, first served.
        args += ["--scheduling-policy", "priority"]
    if not machine.gpus:
        # On the CPU, compilation takes longer than it saves.
        args += [] if is_given(typed.engine_args, *COMPILING) else ["--enforce-eager"]
    elif engines_per_gpu > 1 and not is_given(typed.engine_args, "--gpu-memory-utilization"):
        args += ["--gpu-memory-utilization", f"{GPU_SHARE / engines_per_gpu:.3f}"]
    return (*args, *typed.engine_args)


def stages_of(typed: Typed) -> int:
    """Pipeline stages of an engine, each on its own GPUs; 1 for a number that vLLM will refuse."""
    words = [one.values[-1] for one in declared.parse(typed.engine_args) if one.name == STAGES]
    return (whole_number(words[-1]) if words else None) or 1


def _kv_cache_limit(typed: Typed, machine: Machine, workers: int) -> int:
    """The largest KV cache of an engine in bytes; 0 leaves its size to vLLM.

    On the CPU, vLLM would size the cache of each engine by the memory of the whole machine. On
    a GPU that is right, except for the built-in models: they are so small that filling the GPU with
    cache would only delay the start, by more than a minute.
    """
    if machine.gpus:
        sized = is_given(typed.engine_args, *KV_SIZES)
        return KV_MOST_BYTES if typed.model in BUILT_IN_MODELS and not sized else 0
    share = int(machine.available_bytes * KV_SHARE / workers)
    return max(KV_LEAST_BYTES, min(KV_MOST_BYTES, share)) // MIB * MIB


def is_given(args: Sequence[str], *flags: str) -> bool:
    """Whether one of these options, or a field of it, is among the arguments."""
    return any(arg.partition("=")[0].partition(".")[0] in flags for arg in args)
