"""The memory of the host cache as a rank sees it, in the form that vLLM's copy classes take."""

from __future__ import annotations

import mmap

import torch
from vllm.v1.kv_offload.cpu.shared_offload_region import SharedOffloadRegion

from dynamo_cli.host.memory_file import map_shared


class Region(SharedOffloadRegion):  # type: ignore[misc]
    """The shared memory: rows are slots, and this rank has the same part of each row.

    vLLM's own class makes the memory in /dev/shm; here the supervisor has made it.

    Args:
        path: path of the memory; see `HostCacheConfig`.
        slot_bytes: size of a slot.
        rank, rank_bytes: this rank's number, and the size of its part of a slot.
    """

    def __init__(self, path: str, slot_bytes: int, rank: int, rank_bytes: int) -> None:
        self.mmap_obj: mmap.mmap | None = map_shared(path)
        self.fd = None
        self.rank = rank
        self.page_size = mmap.PAGESIZE
        self.num_chunks = len(self.mmap_obj) // slot_bytes
        self.total_size_bytes = self.num_chunks * slot_bytes
        self._row_stride = slot_bytes
        self._worker_offset = rank * rank_bytes
        self._worker_area_end = (rank + 1) * rank_bytes
        self._creator = False
        self._base = torch.frombuffer(self.mmap_obj, dtype=torch.int8)
        self._views: list[torch.Tensor] = []
        self._canonical_offset = 0
        self.is_pinned = False
        self.pinned_addresses: list[int] = []
