"""Sequence hashes: names of prefix blocks, made from the token ids that an engine gets.

A sequence hash names a block together with all blocks before it, so that equal hashes mean equal
prefixes. It is xxh3-64 over the block's token ids (little-endian 32 bit), seeded with the hash of
the block before. Anything else that makes an engine compute other keys and values for the same
tokens (LoRA adapter, cache salt, images) is hashed with the blocks that it applies to.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Sequence
from typing import Any

import msgspec
from xxhash import xxh3_64_intdigest

TOKEN_BYTES = 4
ROOT = 0
"""Hash that stands for the parent of a first block."""

ExtraKeys = Sequence[Any] | None
"""What a block's hash depends on besides its tokens: strings, numbers, bytes, tuples of them."""


def chain(
    tokens: bytes, block_size: int, extra_keys: Sequence[ExtraKeys] = (), parent: int = ROOT
) -> list[int]:
    """Return the sequence hashes of the full blocks of `tokens`.

    Args:
        tokens: little-endian int32; a last block that is not full has no hash.
        block_size: tokens per block.
        extra_keys: one for each block; an empty sequence means None for all.
        parent: sequence hash of the block before the first.
    """
    step = block_size * TOKEN_BYTES
    view = memoryview(tokens)
    digest, hashes = parent, []
    for block, start in enumerate(range(0, len(tokens) - step + 1, step)):
        content = view[start : start + step]
        if extra_keys and (extra := extra_keys[block]):
            digest = xxh3_64_intdigest(bytes(content) + msgspec.msgpack.encode(extra), digest)
        else:
            digest = xxh3_64_intdigest(content, digest)
        hashes.append(digest)
    return hashes


def pack_tokens(token_ids: Sequence[int]) -> bytes:
    """Pack token ids as `chain` and the messages take them: int32, little-endian."""
    return _little_endian(array("i", token_ids)).tobytes()


def unpack_tokens(tokens: bytes) -> list[int]:
    """Unpack what `pack_tokens` made."""
    return _little_endian(array("i", tokens)).tolist()


def pack(hashes: Sequence[int]) -> bytes:
    """Pack hashes for messages: u64 each."""
    return array("Q", hashes).tobytes()


def unpack(packed: bytes) -> memoryview:
    """Unpack what `pack` made, without a copy: a sequence of int."""
    return memoryview(packed).cast("Q")


def _little_endian(tokens: array[int]) -> array[int]:
    if sys.byteorder == "big":
        tokens.byteswap()
    return tokens
