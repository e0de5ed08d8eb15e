"""Builds vLLM's EngineCore so that it leaves no files behind."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from typing import Any

import torch
from vllm.platforms import current_platform
from vllm.tokenizers import cached_tokenizer_from_config
from vllm.v1.engine.core import EngineCore
from vllm.v1.executor import Executor, UniProcExecutor

from dynamo_cli.engines.vllm.core import garbage, ranks


def build(vllm_config: Any) -> EngineCore:
    """Build the core of an engine and load its model. Raises whatever vLLM raises."""
    if hasattr(torch.cpu, "_init_amx"):
        # AMX must be initialized in time, or the first one-token forward pass may die with SIGILL.
        torch.cpu._init_amx()
    if not current_platform.is_cpu() and vllm_config.parallel_config.world_size == 1:
        # Ranks are forked, for which no other thread may run. A CPU has no time to spare meanwhile.
        threading.Thread(target=_load_tokenizer, args=(vllm_config,), daemon=True).start()
    with garbage.frozen():
        return EngineCore(
            vllm_config,
            _executor_class(vllm_config),
            log_stats=True,
            executor_fail_callback=ranks.lost,
        )


def _load_tokenizer(vllm_config: Any) -> None:
    """Load the tokenizer, which grammars need, while the model is loaded; vLLM keeps it."""
    # vLLM loads it again where this fails, and tells why.
    with suppress(Exception):
        cached_tokenizer_from_config(vllm_config.model_config)


class _NamelessRendezvous(UniProcExecutor):  # type: ignore[misc]
    """An executor whose rendezvous file for torch.distributed has no name, so that none is left."""

    def _distributed_args(self) -> tuple[str, int, int]:
        _, rank, local_rank = super()._distributed_args()
        return f"file:///proc/self/fd/{os.memfd_create('rendezvous')}", rank, local_rank


def _executor_class(vllm_config: Any) -> type[Executor]:
    chosen = Executor.get_class(vllm_config)
    return _NamelessRendezvous if chosen is UniProcExecutor else chosen
