"""Corrects LoRA on a CPU when a batch has requests with and without an adapter.

vLLM gives a request without an adapter the adapter number -1. Its CPU kernels use this number as an
index into the adapters' weights, where -1 means the last adapter. So the request is silently
computed with a wrong adapter. Here the shrink kernel, which every use of an adapter needs first,
gives zeros for such requests instead.
"""

from __future__ import annotations

from typing import Any

import torch
from vllm.config import VllmConfig
from vllm.lora.ops.torch_ops import lora_ops
from vllm.lora.punica_wrapper import punica_cpu
from vllm.platforms import current_platform

_shrink = lora_ops.bgmv_shrink


def install(vllm_config: VllmConfig) -> None:
    """Replace the kernel if this engine needs it. Must be called before the engine is built."""
    if vllm_config.lora_config is not None and current_platform.is_cpu():
        lora_ops.bgmv_shrink = punica_cpu.bgmv_shrink = _shrink_of_those_with_an_adapter


def _shrink_of_those_with_an_adapter(
    inputs: torch.Tensor,
    weights: torch.Tensor,
    output: torch.Tensor,
    adapters: torch.Tensor,
    *scaling: Any,
) -> None:
    """Like vLLM's own; `adapters` has one number per row of `inputs` and `output`."""
    _shrink(inputs, weights, output, adapters, *scaling)
    output[adapters < 0] = 0
