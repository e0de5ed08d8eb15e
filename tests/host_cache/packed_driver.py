"""Copies blocks between caches of each layout; asks which layout is wanted (see `test_packed`)."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import torch
from vllm.v1.kv_cache_interface import (
    FullAttentionSpec,
    KVCacheConfig,
    KVCacheGroupSpec,
    KVCacheTensor,
    create_kv_cache_views,
)
from vllm.v1.kv_cache_layout import KVCacheLayout
from vllm.v1.kv_offload.base import GPULoadStoreSpec
from vllm.v1.kv_offload.cpu.common import CPULoadStoreSpec

from dynamo_cli.engines.vllm.host_cache import connector
from dynamo_cli.engines.vllm.host_cache.copies import CpuCopies
from dynamo_cli.engines.vllm.host_cache.joined import JoiningWorker
from dynamo_cli.engines.vllm.host_cache.region import Region
from dynamo_cli.host.memory_file import MemoryFile
from tests.support.driver import tell

LAYERS = ("first", "second", "third")
BLOCKS, SLOTS = 12, 20
SPEC = FullAttentionSpec(block_size=16, num_kv_heads=2, head_size=8, dtype=torch.float32)
PAGE = SPEC.page_size_bytes
SLOT_BYTES = -(-PAGE * len(LAYERS) // 4096) * 4096


class Engine:
    """An engine's cache with random content, as vLLM lays it out, and what copies its blocks."""

    def __init__(self, layout: KVCacheLayout, memory: MemoryFile) -> None:
        size = PAGE * len(LAYERS) * BLOCKS
        packed = layout.is_block_outermost
        strides = (PAGE, PAGE * len(LAYERS)) if packed else (PAGE * BLOCKS, PAGE)
        tensor = KVCacheTensor(size, list(LAYERS), *strides)
        raw = torch.randint(-128, 127, (size,), dtype=torch.int8)
        views = create_kv_cache_views(raw, SPEC, BLOCKS, layout, tensor)
        self.layers = dict(zip(LAYERS, views, strict=True))
        described: Any = SimpleNamespace(
            replicated_layout=False,
            get_worker=lambda caches: CpuCopies(
                caches, Region(memory.path, SLOT_BYTES, 0, PAGE * len(LAYERS))
            ),
        )
        parallel = SimpleNamespace(
            tensor_parallel_size=1, prefill_context_parallel_size=1, world_size=2
        )
        config = KVCacheConfig(BLOCKS, [tensor], [KVCacheGroupSpec(list(LAYERS), SPEC)])
        side = JoiningWorker(described, SimpleNamespace(parallel_config=parallel), config)
        side.register_kv_caches(self.layers)
        self.copies = side.worker

    def bits(self, layer: str, block: int) -> bytes:
        return bytes(self.layers[layer][block].contiguous().view(torch.int8).numpy().tobytes())


def moved(layout: KVCacheLayout) -> list[bool]:
    """Whether each block came from one engine to the other, layer by layer, and nothing else."""
    memory = MemoryFile("test", SLOT_BYTES * SLOTS)
    here, there = Engine(layout, memory), Engine(layout, memory)
    untouched = {
        (layer, block): there.bits(layer, block) for layer in LAYERS for block in range(BLOCKS)
    }
    dice = random.Random(layout.name)
    sources, targets = (dice.sample(range(BLOCKS), 5) for _ in range(2))
    slots = dice.sample(range(SLOTS), 5)
    here.copies.submit_store(1, GPULoadStoreSpec(sources, [5], [0]), CPULoadStoreSpec(slots))
    there.copies.submit_load(2, CPULoadStoreSpec(slots), GPULoadStoreSpec(targets, [5], [0]))
    came = dict(zip(targets, sources, strict=True))
    return [
        there.bits(layer, block)
        == (here.bits(layer, came[block]) if block in came else untouched[layer, block])
        for layer in LAYERS
        for block in range(BLOCKS)
    ]


def wanted(*, cuda: bool, capability: int, mla: bool = False, hybrid: bool = False) -> str | None:
    """The layout that the connector wants on such a machine for such a model."""
    platform: Any = SimpleNamespace(
        is_cuda=lambda: cuda, has_device_capability=lambda least: capability >= least
    )
    connector.current_platform = platform
    model = SimpleNamespace(use_mla=mla, is_hybrid=hybrid)
    config: Any = SimpleNamespace(
        model_config=model, attention_config=SimpleNamespace(hisparse_config=None)
    )
    return connector.HostCacheConnector.get_required_kvcache_layout(config)


if __name__ == "__main__":
    tell(
        {
            "moved": {
                layout.name: moved(layout) for layout in KVCacheLayout if layout.is_block_compact
            },
            "wanted": {
                "a CPU": wanted(cuda=False, capability=0),
                "an H100": wanted(cuda=True, capability=90),
                "an H100, MLA": wanted(cuda=True, capability=90, mla=True),
                "an H100, state": wanted(cuda=True, capability=90, hybrid=True),
                "a B200": wanted(cuda=True, capability=100),
            },
        }
    )
