"""How blocks get from a GPU to pinned memory of the host and back: by the driver, or by a kernel.

    python -m tests.benchmarks.gpu_copies [--layers 32] [--page-kib 64] [--gib 4]

For both ways and directions, and several numbers of blocks: how long the call takes that begins the
copy (the engine's loop stands still meanwhile), while the GPU is idle and while it is busy, how
long the copy takes, and its speed. What was copied is compared. It uses vLLM's own classes.
"""

from __future__ import annotations

import argparse
import functools
import random
import statistics
import time

import torch
from vllm.v1.kv_offload.base import CanonicalKVCacheRef, GPULoadStoreSpec
from vllm.v1.kv_offload.cpu.common import CPULoadStoreSpec
from vllm.v1.kv_offload.cpu.gpu_worker import SingleDirectionOffloadingHandler
from vllm.v1.kv_offload.cpu.swap_blocks_triton import swap_blocks_batch

from dynamo_cli.engines.vllm.host_cache.copies import CopyAddresses

BLOCKS, REPEATS, CHUNK_BYTES = (4, 16, 64, 128, 188), 5, 8192


class Bench:
    """A cache on the GPU, and slots of the host."""

    def __init__(self, layers: int, page: int, nbytes: int) -> None:
        slots = nbytes // (layers * page)
        self.gpu = [
            torch.randint(-128, 127, (slots, page), dtype=torch.int8, device="cuda")
            for _ in range(layers)
        ]
        whole = torch.empty(slots, layers * page, dtype=torch.int8, pin_memory=True)
        self.host = [whole[:, at * page : (at + 1) * page] for at in range(layers)]
        self.slots, self.layers, self.page = slots, layers, page
        self.refs = [[CanonicalKVCacheRef(at, page) for at in range(layers)]]
        self.matrix = torch.randn(8192, 8192, dtype=torch.bfloat16, device="cuda")

    def handler(self, store: bool, kernel: bool) -> SingleDirectionOffloadingHandler:
        made = SingleDirectionOffloadingHandler(
            self.gpu, self.host, 1, self.refs, gpu_to_cpu=store, host_memory_is_pinned=True
        )
        made._fill_group_ops = CopyAddresses(self.refs, made.src_tensors, made.dst_tensors).fill
        if kernel:
            made._swap_blocks_batch = functools.partial(
                swap_blocks_batch, bytes_per_chunk=CHUNK_BYTES
            )
        return made

    def busy(self) -> None:
        """Give the GPU work for about 40 ms."""
        for _ in range(25):
            self.matrix @ self.matrix

    def once(self, handler: SingleDirectionOffloadingHandler, blocks: int, busy: bool) -> tuple:
        here = random.sample(range(self.slots), blocks)
        there = random.sample(range(self.slots), blocks)
        device, host = GPULoadStoreSpec(here, [blocks], [0]), CPULoadStoreSpec(there)
        pair = (device, host) if handler.gpu_to_cpu else (host, device)
        torch.cuda.synchronize()
        if busy:
            self.busy()
        began = time.perf_counter()
        handler.transfer_async(0, *pair)
        call = time.perf_counter() - began
        torch.cuda.synchronize()
        took = handler.get_finished()[0].transfer_time
        for gpu, cpu in zip(self.gpu, self.host, strict=True):
            assert torch.equal(gpu[here].cpu(), cpu[there])
        return 1000 * call, 1000 * took


def main() -> None:
    parser = argparse.ArgumentParser(description="Copies between a GPU and the host.")
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--page-kib", type=int, default=64, help="of a block in one layer")
    parser.add_argument("--gib", type=float, default=4.0, help="size of both caches")
    args = parser.parse_args()
    bench = Bench(args.layers, args.page_kib << 10, int(args.gib * (1 << 30)))
    print("| direction | way | blocks | call, ms | call, GPU busy, ms | copy, ms | GB/s |")
    print("|---|---|--:|--:|--:|--:|--:|")
    for store in (True, False):
        for kernel in (False, True):
            handler = bench.handler(store, kernel)
            for blocks in BLOCKS:
                show(bench, handler, store, kernel, blocks)


def show(
    bench: Bench,
    handler: SingleDirectionOffloadingHandler,
    store: bool,
    kernel: bool,
    blocks: int,
) -> None:
    bench.once(handler, blocks, False)
    idle = [bench.once(handler, blocks, False) for _ in range(REPEATS)]
    busy = [bench.once(handler, blocks, True) for _ in range(REPEATS)]
    copy = statistics.median(took for _, took in idle)
    nbytes = blocks * bench.layers * bench.page
    print(
        f"| {'store' if store else 'load'} | {'kernel' if kernel else 'driver'} | {blocks} "
        f"| {statistics.median(call for call, _ in idle):.2f} "
        f"| {statistics.median(call for call, _ in busy):.2f} | {copy:.2f} "
        f"| {nbytes / copy / 1e6:.1f} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
