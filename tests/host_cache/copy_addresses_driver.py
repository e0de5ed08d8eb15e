"""Compares the addresses of copied blocks with those that vLLM computes."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from vllm.v1.kv_offload.base import CanonicalKVCacheRef
from vllm.v1.kv_offload.cpu.gpu_worker import SingleDirectionOffloadingHandler

from dynamo_cli.engines.vllm.host_cache.copies import CopyAddresses
from tests.support.driver import tell

Filled = list[list[int]]


def compared(seed: int) -> tuple[Filled, Filled]:
    """What vLLM writes for random caches and blocks, and what we do."""
    dice = random.Random(seed)
    sizes = [dice.choice((64, 96, 4096)) for _ in range(dice.randint(1, 5))]
    gpu = [torch.zeros(20, size, dtype=torch.int8) for size in sizes]
    row = torch.zeros(30, sum(sizes) + dice.choice((0, 32)), dtype=torch.int8)
    host = [row[:, sum(sizes[:at]) : sum(sizes[: at + 1])] for at in range(len(sizes))]
    sides = (gpu, host) if dice.random() < 0.5 else (host, gpu)
    refs = [
        [
            # A layer may need less than the rows of its tensor have.
            CanonicalKVCacheRef(at, sizes[at] - dice.choice((0, 32)))
            for at in sorted(dice.sample(range(len(sizes)), dice.randint(1, len(sizes))))
        ]
        for _ in range(dice.randint(1, 3))
    ]
    counts = [dice.randint(0, 9) for _ in refs]
    chosen = [[dice.sample(range(len(side[0])), count) for side in sides] for count in counts]
    theirs = SingleDirectionOffloadingHandler.__new__(SingleDirectionOffloadingHandler)
    theirs.layer_refs_per_group = refs
    theirs.src_tensors, theirs.dst_tensors = sides
    theirs.src_blocks_per_chunk = theirs.dst_blocks_per_chunk = 1
    return (
        _filled(theirs._fill_direct_ops, refs, counts, chosen),
        _filled(CopyAddresses(refs, *sides).fill, refs, counts, chosen),
    )


def _filled(
    fill: Any,
    refs: list[list[CanonicalKVCacheRef]],
    counts: list[int],
    chosen: list[list[list[int]]],
) -> Filled:
    total = sum(len(group) * count for group, count in zip(refs, counts, strict=True))
    words = [np.zeros(total, dtype=np.int64) for _ in range(3)]
    at, told = 0, []
    for group, (count, (sources, targets)) in enumerate(zip(counts, chosen, strict=True)):
        if not count:
            continue  # as vLLM
        at, nbytes = fill(
            group,
            group_src=np.array(sources, dtype=np.int32),
            group_dst=np.array(targets, dtype=np.int32),
            group_size=count,
            src_skip_count=0,
            dst_skip_count=0,
            all_src=words[0],
            all_dst=words[1],
            all_sizes=words[2],
            op_idx=at,
        )
        told.append(nbytes)
    return [*(word.tolist() for word in words), [at, *told]]


if __name__ == "__main__":
    tell([compared(seed) for seed in range(300)])
