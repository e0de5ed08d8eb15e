"""Describes to vLLM the memory of the host cache for one engine, and makes what copies blocks."""

from __future__ import annotations

import mmap

from vllm.platforms import current_platform
from vllm.v1.kv_offload.base import (
    CanonicalKVCaches,
    OffloadingManager,
    OffloadingSpec,
    OffloadingWorker,
)
from vllm.v1.kv_offload.config import OffloadingConfig

from dynamo_cli.engines.cache_client import STEPS_AHEAD, CacheClient
from dynamo_cli.engines.vllm.host_cache.copies import CpuCopies, GpuCopies
from dynamo_cli.engines.vllm.host_cache.manager import Manager, keep
from dynamo_cli.engines.vllm.host_cache.region import Region


class HostCacheSpec(OffloadingSpec):  # type: ignore[misc]
    """Each slot has one block of all layers and all ranks: the ranks' parts one after the other.

    Args:
        config: what vLLM says about the engine; `extra_config` has the fields of our
            `HostCacheConfig`.
        step_tokens: most tokens that a step computes.
    """

    def __init__(self, config: OffloadingConfig, step_tokens: int) -> None:
        super().__init__(config)
        self._step_tokens = step_tokens
        self.offload_prompt_only = False
        self._rank_bytes = config.worker_kv_bytes_per_block
        self._block_bytes = self._rank_bytes * config.parallel.world_size
        self._slot_bytes = -(-self._block_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
        self._manager: Manager | None = None

    def get_manager(self) -> OffloadingManager:
        """The manager of this engine's scheduler."""
        if self._manager is None:
            tokens = min(self.tokens_per_block)
            client = CacheClient(
                self._slot_bytes,
                self._layout(),
                tokens,
                slots=int(self.extra_config["size_bytes"]) // self._slot_bytes,
                reserve=STEPS_AHEAD * -(-self._step_tokens // tokens) * len(self.tokens_per_block),
            )
            min_tokens = int(self.extra_config["min_tokens"])
            self._manager = Manager(client, -(-min_tokens // tokens), self._block_bytes)
            keep(self.config.engine_id, self._manager)
        return self._manager

    def _layout(self) -> str:
        """Describes a block; engines must have the same description to read each other's blocks."""
        config, parallel = self.config, self.config.parallel
        groups = [(group.tokens_per_block, len(group.layer_names)) for group in config.groups]
        return (
            f"{config.model.name} in {config.model.dtype}, cache {config.kv_cache_layout} of "
            f"{groups} (tokens per block, layers), tp {parallel.tp_size}, pp {parallel.pp_size}, "
            f"{self._rank_bytes} bytes per rank"
        )

    def get_worker(self, kv_caches: CanonicalKVCaches) -> OffloadingWorker:
        """Make the object that copies blocks for one rank."""
        region = Region(
            str(self.extra_config["path"]),
            self._slot_bytes,
            self.config.parallel.rank,
            self._rank_bytes,
        )
        copies = GpuCopies if current_platform.is_cuda_alike() else CpuCopies
        return copies(kv_caches, region)
