"""Captures CUDA graphs for fewer batch sizes than vLLM would, unless the user has chosen the sizes.

vLLM captures them for 51 sizes, twice: for steps that only decode, and for steps with parts of
prompts. That takes 6 to 8 s for a model of 8B on an H100, which is half of a restart. A step with
another number of tokens is padded to the next size, so that fewer sizes cost time in each step;
docs/gpu.md says how much.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from vllm.config import CUDAGraphMode, VllmConfig
from vllm.v1.worker.gpu.cudagraph_utils import CudaGraphManager, ModelCudaGraphManager

DECODE_STEP, MIXED_STEP = 16, 64
"""Between these numbers of tokens there is no graph, except for powers of two below them."""

_of_vllm: Callable[[Any], None] = CudaGraphManager._init_candidates


def chosen(namespace: argparse.Namespace, vllm_config: VllmConfig) -> bool:
    """Whether vLLM chose the sizes, and by its usual rule; then fewer of them are captured."""
    explicit = any(
        getattr(options, name) is not None
        for options in (namespace, namespace.compilation_config)
        for name in ("cudagraph_capture_sizes", "max_cudagraph_capture_size")
    )
    # With speculative decoding, sizes are multiples of the tokens that a request has in a step.
    usual = vllm_config.performance_mode == "balanced" and not vllm_config.num_speculative_tokens
    # For sizes with code of their own, vLLM relies on their graphs.
    compiled = vllm_config.compilation_config.compile_sizes
    return usual and not explicit and not compiled


def install() -> None:
    """Capture graphs for fewer sizes in this process, with vLLM's newer model runner."""
    CudaGraphManager._init_candidates = _init_candidates


def steps() -> tuple[int, ...]:
    """The steps between sizes in this process; empty if all are captured."""
    installed = CudaGraphManager._init_candidates is _init_candidates
    return (DECODE_STEP, MIXED_STEP) if installed else ()


def fewer(sizes: list[int], step: int, most: int) -> list[int]:
    """Of sizes in rising order, keep multiples of `step`, powers of two below it, and the last.

    Args:
        most: this one is kept, too: the tokens of the largest step that only decodes.
    """
    kept = {most, *sizes[-1:], *(1 << power for power in range(step.bit_length()))}
    return [size for size in sizes if size in kept or size % step == 0]


def _init_candidates(manager: Any) -> None:
    """Choose graphs as vLLM does, for each kind of step from sizes of its own."""
    if type(manager) is not ModelCudaGraphManager:  # others have their own rules
        _of_vllm(manager)
        return
    compilation, mode = manager.compilation_config, manager.cudagraph_mode
    most = manager.max_num_reqs * manager.decode_query_len
    sizes = compilation.cudagraph_capture_sizes
    kinds = [(mode, DECODE_STEP)]
    if mode == CUDAGraphMode.FULL_AND_PIECEWISE:
        # In this order: vLLM takes the first graph that fits, and the one for decoding is faster.
        kinds = [
            (CUDAGraphMode.FULL_DECODE_ONLY, DECODE_STEP),
            (CUDAGraphMode.PIECEWISE, MIXED_STEP),
        ]
    try:
        for kind, step in kinds:
            manager.cudagraph_mode = kind
            compilation.cudagraph_capture_sizes = fewer(sizes, step, most)
            _of_vllm(manager)
    finally:
        manager.cudagraph_mode, compilation.cudagraph_capture_sizes = mode, sizes
