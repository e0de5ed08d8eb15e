"""Copies blocks between an engine's cache and the memory of the host.

On a GPU vLLM's own copies run: the memory is pinned, each direction has streams of its own, and
nothing waits for them. On a CPU a copy is done at once, between two steps.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt
import torch
from vllm.platforms import current_platform
from vllm.triton_utils import HAS_TRITON
from vllm.v1.kv_offload.base import (
    BlockIDsLoadStoreSpec,
    CanonicalKVCaches,
    GPULoadStoreSpec,
    LoadStoreSpec,
    OffloadingWorker,
    TransferResult,
)
from vllm.v1.kv_offload.cpu.gpu_worker import CPUOffloadingWorker
from vllm.v1.kv_offload.cpu.swap_blocks_triton import MIN_N, swap_blocks_batch

from dynamo_cli.engines.vllm.host_cache.region import Region

Rows = npt.NDArray[np.int8]
"""One layer of a cache: a row for each block."""

Numbers = npt.NDArray[np.int32]
"""Which rows."""


WORD_BYTES, CHUNK_BYTES = 8, 8192
"""vLLM's kernel copies words, and at most so many bytes at a time."""

SwapBlocks = Callable[..., None]
"""Copies blocks between two lists of addresses."""


class GpuCopies(CPUOffloadingWorker):  # type: ignore[misc]
    """vLLM's copies, between a GPU and our memory.

    vLLM lets its kernel copy small pieces from the host, and the driver everything else. The driver
    takes about 5 us of the engine's loop for each piece, and a block has one for each layer: 10 ms
    for 1,000 tokens of a model of 32 layers, in which the GPU has nothing to do. To start the
    kernel takes as long as a few pieces. So it copies pieces of all sizes, in both directions.
    """

    def __init__(self, kv_caches: CanonicalKVCaches, region: Region) -> None:
        super().__init__(
            kv_caches=kv_caches,
            blocks_per_chunk=1,
            num_cpu_chunks=region.num_chunks,
            mmap_region=region,
        )
        sizes = [one.page_size_bytes for refs in kv_caches.group_data_refs for one in refs]
        if region.is_pinned and (kernel := copying_kernel(sizes)) is not None:
            self._store_handler._swap_blocks_batch = kernel
            self._load_handler._swap_blocks_batch = kernel

    def join(self, job_ids: Iterable[int]) -> None:
        """Let all that the device is given from now on wait for these loads."""
        stream = torch.cuda.current_stream()
        for job_id in job_ids:
            stream.wait_event(self._load_handler._transfer_events[job_id])


def copying_kernel(sizes: list[int]) -> SwapBlocks | None:
    """Compile vLLM's copying kernel.

    Args:
        sizes: of the pieces that it copies, bytes.

    Returns:
        it, or None if it cannot copy these, or not on this device.
    """
    usable = HAS_TRITON and current_platform.is_cuda() and sizes
    if not usable or any(size % WORD_BYTES for size in sizes):
        return None
    chunk = min(1 << (max(sizes) - 1).bit_length(), CHUNK_BYTES)
    copy = functools.partial(swap_blocks_batch, bytes_per_chunk=chunk)
    words = torch.zeros(MIN_N + 1, 2, dtype=torch.int64, device="cuda")
    for count in (MIN_N, MIN_N + 1):  # Triton compiles multiples of 16 by themselves
        source = words[:count, 0].data_ptr() + torch.arange(count) * words.stride(0) * WORD_BYTES
        copy(source, source + WORD_BYTES, torch.full((count,), WORD_BYTES))
    torch.cuda.synchronize()
    return copy


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
