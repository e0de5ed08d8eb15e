"""An engine's KV cache as rows of 64-bit words, one row per block, which copies work on."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from dynamo_cli.errors import ModelError

WORD_BYTES = 8
LAYOUT_BYTES = 16


@dataclass(frozen=True, slots=True)
class Planes:
    """Views of the cache of every layer; nothing is copied.

    Attributes:
        tensors: int64 [blocks, words] each; the rows with the same number in all of them are one
            block.
        layout: digest of layer names, shapes, strides and types; two engines with equal digests
            can exchange blocks byte for byte.
    """

    tensors: list[torch.Tensor]
    layout: bytes

    @property
    def slot_bytes(self) -> int:
        """Size of one block over all layers."""
        return sum(int(plane.shape[1]) for plane in self.tensors) * WORD_BYTES

    @property
    def device(self) -> torch.device:
        """Where the cache is."""
        return self.tensors[0].device


def planes_of(caches: Mapping[str, torch.Tensor], num_blocks: int) -> Planes:
    """Views of the caches of all layers.

    Args:
        caches: the tensors by layer, as vLLM registers them.
        num_blocks: number of KV blocks of the engine.

    Raises:
        ModelError: the memory of a block is not contiguous.
    """
    tensors = []
    digest = hashlib.blake2b(digest_size=LAYOUT_BYTES)
    for name in sorted(caches):
        cache = caches[name]
        # Some attention backends keep keys and values in two halves.
        halves = [cache] if cache.shape[0] == num_blocks else list(cache)
        tensors += [_plane(half, num_blocks) for half in halves]
        inner = [(half.shape[1:], half.stride()[1:]) for half in halves]
        digest.update(repr((name, inner, cache.dtype)).encode())
    return Planes(tensors, digest.digest())


def _plane(cache: torch.Tensor, num_blocks: int) -> torch.Tensor:
    """View a cache as int64 [blocks, words]; the attention backend alone knows the order inside."""
    block_bytes = cache[0].numel() * cache.itemsize if cache.dim() else 0
    step_bytes = cache.stride(0) * cache.itemsize if cache.dim() else 0
    if (
        cache.dim() < 2
        or cache.shape[0] != num_blocks
        or not _dense(cache[0])
        or any(size % WORD_BYTES for size in (block_bytes, step_bytes, cache.data_ptr()))
    ):
        raise ModelError(
            f"--kv-transfer shm cannot handle a KV cache of shape {tuple(cache.shape)} and strides "
            f"{cache.stride()}; use --kv-transfer nixl, or leave out --prefill-workers."
        )
    words = torch.empty(0, dtype=torch.int64, device=cache.device)
    return words.set_(
        cache.untyped_storage(),
        cache.storage_offset() * cache.itemsize // WORD_BYTES,
        (num_blocks, block_bytes // WORD_BYTES),
        (step_bytes // WORD_BYTES, 1),
    )


def _dense(block: torch.Tensor) -> bool:
    """Whether a block fills its memory without a gap, whatever the order of its dimensions."""
    expected = 1
    for stride, size in sorted(zip(block.stride(), block.shape, strict=True)):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True
