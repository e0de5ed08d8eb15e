"""Captures CUDA graphs for fewer batch sizes than vLLM would, unless the user has chosen the sizes.

vLLM captures them for 51 sizes, twice: for steps that only decode, and for steps with parts of
prompts. This is the longest part of a restart, 6 to 8 s for a model of 8B on an H100. A step with
another number of tokens is padded to the next size, so that fewer sizes cost time in each step;
docs/gpu.md says how much.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from vllm.config import CUDAGraphMode, VllmConfig
from vllm.v1.worker.gpu.cudagraph_utils import CudaGraphManager

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
    return usual and not explicit


def install() -> None:
    """Capture graphs for fewer sizes in this process, with vLLM's newer model runner."""
    CudaGraphManager._init_candidates = _init_candidates


def installed() -> bool:
    """Whether fewer graphs are captured in this process."""
    return CudaGraphManager._init_candidates is _init_candidates


def fewer(sizes: list[int], step: int) -> list[int]:
    """Of sizes in rising order, keep multiples of `step`, powers of two below it, and the last."""
    return [
        size
        for size in sizes
        if size % step == 0 or (size < step and size & (size - 1) == 0) or size == sizes[-1]
    ]


def _init_candidates(manager: Any) -> None:
    """Choose graphs as vLLM does, for each kind of step from sizes of its own."""
    compilation, mode = manager.compilation_config, manager.cudagraph_mode
    sizes = compilation.cudagraph_capture_sizes
    kinds = [(mode, DECODE_STEP)]
    if mode == CUDAGraphMode.FULL_AND_PIECEWISE:
        # In this order: vLLM takes the first graph that fits, and the one for decoding is faster.
        kinds = [
            (CUDAGraphMode.FULL_DECODE_ONLY, DECODE_STEP),
            (CUDAGraphMode.PIECEWISE, MIXED_STEP),
        ]
    try:
        for manager.cudagraph_mode, step in kinds:
            compilation.cudagraph_capture_sizes = fewer(sizes, step)
            _of_vllm(manager)
    finally:
        manager.cudagraph_mode, compilation.cudagraph_capture_sizes = mode, sizes
