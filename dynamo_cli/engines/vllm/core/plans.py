"""Lets a GPU engine start with the size of the KV cache that an earlier one measured.

vLLM can keep what it measured (``VLLM_ENABLE_STARTUP_PLAN``). This saves the next start a trial run
of all CUDA graphs: 7 s of 26 for a model of 8B on an H100. vLLM uses the kept size only if as much
memory is free as when it was measured. But vLLM recognises an engine only by what changes the
compiled model, and the size of the KV cache depends on more. With another
``--gpu-memory-utilization``, for example, the kept size would be wrong.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from vllm.v1.worker import startup_plan

from dynamo_cli.engines.vllm.core import graphs

_of_vllm: Callable[..., str] = startup_plan.compute_plan_fingerprint


def install() -> None:
    """In this process, let vLLM recognise engines by all that the size of their cache depends
    on."""
    startup_plan.compute_plan_fingerprint = fingerprint


def fingerprint(vllm_config: Any, *args: Any, **kwargs: Any) -> str:
    """Return a name that is the same for engines that need the same memory besides the KV cache."""
    scheduler, transfer = vllm_config.scheduler_config, vllm_config.kv_transfer_config
    sizes = (
        _of_vllm(vllm_config, *args, **kwargs),
        vllm_config.cache_config.gpu_memory_utilization,
        vllm_config.model_config.max_model_len,
        scheduler.max_num_seqs,
        scheduler.max_num_batched_tokens,
        vllm_config.compilation_config.cudagraph_capture_sizes,
        graphs.steps(),
        transfer.kv_role if transfer is not None else None,
    )
    return hashlib.blake2b(repr(sizes).encode(), digest_size=8).hexdigest()
