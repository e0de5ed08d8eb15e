"""Builds vLLM's EngineCore: without files that stay behind, with errors that people understand."""

from __future__ import annotations

import os
from typing import Any

import torch
from vllm.v1.engine.core import EngineCore
from vllm.v1.executor import Executor, UniProcExecutor

from dynamo_cli.engines.vllm.core import ranks


def build(vllm_config: Any) -> EngineCore:
    """The core of an engine, with its model loaded; what vLLM raises passes as it is."""
    if hasattr(torch.cpu, "_init_amx"):
        # Asked for in time, or the first one-token forward can die with SIGILL.
        torch.cpu._init_amx()
    return EngineCore(
        vllm_config,
        _executor_class(vllm_config),
        log_stats=True,
        executor_fail_callback=ranks.lost,
    )


class _NamelessRendezvous(UniProcExecutor):  # type: ignore[misc]
    """torch.distributed wants a file even for a world of one; this one goes with the process."""

    def _distributed_args(self) -> tuple[str, int, int]:
        _, rank, local_rank = super()._distributed_args()
        return f"file:///proc/self/fd/{os.memfd_create('rendezvous')}", rank, local_rank


def _executor_class(vllm_config: Any) -> type[Executor]:
    chosen = Executor.get_class(vllm_config)
    return _NamelessRendezvous if chosen is UniProcExecutor else chosen
