"""Estimates what a model takes: weights, KV cache per token, and how much fits. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dynamo_cli.config import FULL_CONTEXTS, LEAST_KV_BYTES, Device, Devices
from dynamo_cli.doctor.facts import Facts, ModelFiles
from dynamo_cli.host.gpus import Gpu
from dynamo_cli.plan.machine import Machine
from dynamo_cli.plan.resolve_engine import GPU_SHARE
from dynamo_cli.plan.resolve_host_cache import available_beside
from dynamo_cli.serve_config import ServeConfig
from dynamo_cli.units import GIB, MIB

PROCESS_BYTES = 700 * MIB
"""Memory of a process with vLLM, without weights and KV cache; measured on a CPU."""

TREE_BYTES = 2 * PROCESS_BYTES
"""Memory of all processes but the engines: the zygote, a processor, and small ones."""

GPU_OVERHEAD_BYTES = 2048 * MIB
"""Memory for CUDA's context, CUDA graphs and activations; a rule of thumb."""

DTYPE_BYTES = {"float32": 4, "float": 4, "bfloat16": 2, "float16": 2, "half": 2, "fp8": 1}
SUFFIXES = {"k": 1000, "m": 1000**2, "g": 1000**3, "K": 1024, "M": 1024**2, "G": 1024**3}


@dataclass(frozen=True, slots=True)
class KvCacheShape:
    """The part of ``config.json`` that decides how large the KV cache of a token is.

    Attributes:
        layers: layers that keep keys and values of every token.
        kv_heads: heads whose keys and values are kept; 1 where they are compressed (MLA).
        head_size: numbers that one head keeps per token, for key and value together.
        head_dim: width of one head.
        context: longest context in tokens; 0 when the file does not say.
        dtype: type of the weights.
    """

    layers: int
    kv_heads: int
    head_size: int
    head_dim: int
    context: int
    dtype: str


@dataclass(frozen=True, slots=True)
class Needs:
    """What one engine needs and gets. For an engine on GPUs, bytes are those of one GPU.

    Attributes:
        weights_bytes: weights in memory.
        kv_token_bytes: KV cache for one token.
        context_tokens: longest request.
        kv_bytes: KV cache that the engine gets.
        engine_bytes: everything together.
        available_bytes: free memory: on GPUs of the fullest GPU, for one engine; on the CPU main
            memory without what the other processes take, for all engines.
        engines: how many are to be started.
        engines_fit: how many fit.
    """

    weights_bytes: int
    kv_token_bytes: int
    context_tokens: int
    kv_bytes: int
    engine_bytes: int
    available_bytes: int
    engines: int
    engines_fit: int

    @property
    def tokens_fit(self) -> int:
        """How many tokens the KV cache of one engine holds."""
        return max(0, self.kv_bytes) // self.kv_token_bytes


def shape_of(config: Mapping[str, Any]) -> KvCacheShape | None:
    """Read a ``config.json``; None when it lacks what every transformer has, or is nonsense."""
    try:
        return _shape(config.get("text_config") or config, config)
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None


def _shape(text: Mapping[str, Any], config: Mapping[str, Any]) -> KvCacheShape:
    heads = int(text["num_attention_heads"])
    head_dim = int(text.get("head_dim") or text["hidden_size"] // heads)
    compressed = int(text.get("kv_lora_rank") or 0)
    rotated = int(text.get("qk_rope_head_dim") or 0)
    return KvCacheShape(
        layers=_layers_that_keep(text),
        kv_heads=1 if compressed else int(text.get("num_key_value_heads") or heads),
        head_size=compressed + rotated if compressed else 2 * head_dim,
        head_dim=head_dim,
        context=int(text.get("max_position_embeddings") or 0),
        dtype=str(text.get("dtype") or text.get("torch_dtype") or config.get("dtype") or "float16"),
    )


def _layers_that_keep(text: Mapping[str, Any]) -> int:
    """Count the layers with a KV cache. Linear attention keeps a state of fixed size instead."""
    kinds = text.get("layer_types")
    if kinds is None:
        return int(text["num_hidden_layers"])
    return sum("attention" in str(kind) and "linear" not in str(kind) for kind in kinds)


def needs_of(facts: Facts) -> Needs | None:
    """What an engine needs here; None without a model, its files or a plan, or without a KV cache,
    and with ``--ray``."""
    if facts.model is None or facts.plan is None or facts.machine is None:
        return None
    if not facts.engines_here:
        return None
    shape = shape_of(facts.model.config)
    if shape is None:
        return None
    options = facts.engine_options
    weights = _weights_bytes(facts.model, shape, options)
    context = _number(_arg(facts.plan, "--max-model-len")) or shape.context or 2048
    tp = facts.plan.worker_tp
    per_token = (
        shape.layers * -(-shape.kv_heads // tp) * shape.head_size * _kv_bytes(shape, options)
    )
    if per_token == 0:
        return None
    if facts.machine.gpus:
        return _on_gpus(facts, facts.machine, weights // tp, per_token, context)
    return _on_cpu(facts, facts.machine, weights, per_token, context)


def _on_cpu(facts: Facts, machine: Machine, weights: int, per_token: int, context: int) -> Needs:
    plan, options = facts.plan, facts.engine_options
    assert plan is not None
    space = _number(facts.environment.get("VLLM_CPU_KVCACHE_SPACE", ""))
    wanted = max(LEAST_KV_BYTES, FULL_CONTEXTS * context * per_token)
    kv = min(wanted, plan.engine.kv_cache_limit_bytes)
    kv = _number(options.get("--kv-cache-memory-bytes", "")) or (space * GIB) or kv
    each = weights + kv + PROCESS_BYTES
    engines = len(plan.engine_devices) + len(plan.prefill_devices)
    available = max(0, available_beside(plan.host_cache, machine) - TREE_BYTES)
    return Needs(weights, per_token, context, kv, each, available, engines, available // each)


def _on_gpus(facts: Facts, machine: Machine, weights: int, per_token: int, context: int) -> Needs:
    assert facts.plan is not None
    placed = [*facts.plan.prefill_devices, *facts.plan.engine_devices]
    smallest = min(_memory(facts.gpus, placed), key=lambda gpu: gpu.total_bytes - gpu.used_bytes)
    share = float(_arg(facts.plan, "--gpu-memory-utilization") or GPU_SHARE)
    given = int(smallest.total_bytes * share)
    kv = _number(facts.engine_options.get("--kv-cache-memory-bytes", ""))
    kv = kv or given - weights - GPU_OVERHEAD_BYTES
    free = smallest.total_bytes - smallest.used_bytes
    width = len(placed[0]) if placed and placed[0] else 1
    fits = len(machine.gpus) // width if weights + GPU_OVERHEAD_BYTES < given else 0
    return Needs(weights, per_token, context, kv, given, free, len(placed), fits)


def _memory(gpus: tuple[Gpu, ...], placed: list[Devices]) -> list[Gpu]:
    wanted = {device for devices in placed for device in devices}
    return [gpu for gpu in gpus if gpu.device in wanted] or [Gpu(Device("unknown", ""))]


def _weights_bytes(model: ModelFiles, shape: KvCacheShape, options: Mapping[str, str]) -> int:
    """Weights in memory: ``--dtype float32`` doubles the size of weights stored in 16 bits."""
    stored = DTYPE_BYTES.get(shape.dtype, 2)
    return model.weights_bytes * _dtype_bytes(shape, options) // stored


def _kv_bytes(shape: KvCacheShape, options: Mapping[str, str]) -> int:
    kind = options.get("--kv-cache-dtype", "auto")
    if kind == "auto":
        return _dtype_bytes(shape, options)
    return DTYPE_BYTES.get(kind, 1)  # the others are kinds of fp8 and int8


def _dtype_bytes(shape: KvCacheShape, options: Mapping[str, str]) -> int:
    """Bytes of one weight. By default vLLM converts float32 to 16 bits."""
    wanted = options.get("--dtype", "auto")
    if wanted == "auto":
        return min(2, DTYPE_BYTES.get(shape.dtype, 2))
    return DTYPE_BYTES.get(wanted, 2)


def _arg(plan: ServeConfig, flag: str) -> str:
    """The value of an option among the engine's arguments; empty when it is not given."""
    args = list(plan.engine.args)
    for place, word in enumerate(args):
        name, equals, value = word.partition("=")
        if name == flag:
            return value if equals else next(iter(args[place + 1 :]), "")
    return ""


def _number(text: str) -> int:
    """Read ``4096``, ``8k`` (times 1000) or ``8K`` (times 1024) as vLLM does; 0 for other text."""
    factor = SUFFIXES.get(text[-1:], 1)
    try:
        return int(float(text[: -1 if factor > 1 else None]) * factor)
    except ValueError:
        return 0
