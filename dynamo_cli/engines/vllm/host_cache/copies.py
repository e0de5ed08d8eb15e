"""Copies blocks between an engine's cache and the memory of the host.

On a GPU vLLM's own copies run: the memory is pinned, each direction has streams of its own, and
nothing waits for them. On a CPU a copy is done at once, between two steps.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import torch
from vllm.v1.kv_offload.base import (
    BlockIDsLoadStoreSpec,
    CanonicalKVCaches,
    GPULoadStoreSpec,
    LoadStoreSpec,
    OffloadingWorker,
    TransferResult,
)
from vllm.v1.kv_offload.cpu.gpu_worker import CPUOffloadingWorker

from dynamo_cli.engines.vllm.host_cache.region import Region

Rows = npt.NDArray[np.int8]
"""One layer of a cache: a row for each block."""

Numbers = npt.NDArray[np.int32]
"""Which rows."""


class GpuCopies(CPUOffloadingWorker):  # type: ignore[misc]
    """vLLM's copies, between a GPU and our memory."""

    def __init__(self, kv_caches: CanonicalKVCaches, region: Region) -> None:
        super().__init__(
            kv_caches=kv_caches,
            blocks_per_chunk=1,
            num_cpu_chunks=region.num_chunks,
            mmap_region=region,
        )

    def join(self, job_ids: Iterable[int]) -> None:
        """Let all that the device is given from now on wait for these loads."""
        stream = torch.cuda.current_stream()
        for job_id in job_ids:
            stream.wait_event(self._load_handler._transfer_events[job_id])


class CpuCopies(OffloadingWorker):  # type: ignore[misc]
    """Plain copies between two places in the memory of the host.

    NumPy copies whole rows, where torch's indexing goes through them byte by byte: with rows of 32
    KiB that took 25 times as long.
    """

    def __init__(self, kv_caches: CanonicalKVCaches, region: Region) -> None:
        self._region = region
        self._engine: list[Rows] = [
            cache.tensor.view(torch.int8).view(-1, cache.page_size_bytes).numpy()
            for cache in kv_caches.tensors
        ]
        self._host: list[Rows] = [
            region.create_next_worker_view(cache.page_size_bytes).numpy()
            for cache in kv_caches.tensors
        ]
        self._groups = [[ref.tensor_idx for ref in refs] for refs in kv_caches.group_data_refs]
        self._done: list[TransferResult] = []

    def submit_store(
        self, job_id: int, src_spec: GPULoadStoreSpec, dst_spec: LoadStoreSpec
    ) -> bool:
        """Copy blocks to the host's memory."""
        assert isinstance(dst_spec, BlockIDsLoadStoreSpec)
        return self._copy(job_id, src_spec, dst_spec, store=True)

    def submit_load(
        self,
        job_id: int,
        src_spec: LoadStoreSpec,
        dst_spec: GPULoadStoreSpec,
        expedited: bool = False,  # vLLM 0.33 tells it; no copy waits for another one here
    ) -> bool:
        """Copy blocks to the engine's cache."""
        assert isinstance(src_spec, BlockIDsLoadStoreSpec)
        return self._copy(job_id, dst_spec, src_spec, store=False)

    def _copy(
        self, job_id: int, engine: GPULoadStoreSpec, host: BlockIDsLoadStoreSpec, *, store: bool
    ) -> bool:
        started, nbytes, first = time.perf_counter(), 0, 0
        blocks, slots = engine.block_ids, host.block_ids
        for tensors, size in zip(self._groups, engine.group_sizes, strict=True):
            chosen = slice(first, first + size)
            first += size
            for index in tensors if size else ():
                nbytes += self._copy_layer(index, blocks[chosen], slots[chosen], store=store)
        spent = time.perf_counter() - started
        self._done.append(TransferResult(job_id, True, nbytes, spent))
        return True

    def _copy_layer(self, index: int, blocks: Numbers, slots: Numbers, *, store: bool) -> int:
        engine, host = self._engine[index], self._host[index]
        if store:
            host[slots] = engine[blocks]
        else:
            engine[blocks] = host[slots]
        return len(blocks) * int(engine.shape[1])

    def get_finished(self) -> list[TransferResult]:
        """The copies since the last call."""
        done, self._done = self._done, []
        return done

    def wait(self, job_ids: set[int]) -> None:
        """Nothing to wait for."""

    def join(self, job_ids: Iterable[int]) -> None:
        """Nothing to wait for."""

    def shutdown(self) -> None:
        """Let the memory go."""
        self._engine.clear()
        self._host.clear()
        self._region.cleanup()
