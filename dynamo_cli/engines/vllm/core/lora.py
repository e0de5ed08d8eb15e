"""LoRA on a CPU: requests without an adapter beside others in a batch.

vLLM numbers a request without an adapter -1. Its kernels for CPUs take that as an index into the
adapters' weights, where it is the last one, so that such a request silently gets what belongs to
another. Their first half, which every use of an adapter goes through, gives zeros here instead.
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
    """Before an engine is built; nothing where it is not needed."""
    if vllm_config.lora_config is not None and current_platform.is_cpu():
        lora_ops.bgmv_shrink = punica_cpu.bgmv_shrink = _shrink_of_those_with_an_adapter


def _shrink_of_those_with_an_adapter(
    inputs: torch.Tensor,
    weights: torch.Tensor,
    output: torch.Tensor,
    adapters: torch.Tensor,
    *scaling: Any,
) -> None:
    """As vLLM's; `adapters` has one number per row of `inputs` and `output`."""
    _shrink(inputs, weights, output, adapters, *scaling)
    output[adapters < 0] = 0
