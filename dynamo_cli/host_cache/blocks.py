"""The blocks of the host cache: which slot holds which, and which is evicted next. Pure.

The block that was not used for the longest time is evicted first, but never a pinned one, and never
one that other blocks of the cache follow: engines look up a prompt block by block, so that a block
without the one before it could never be found. Which block follows which is known from sequence
hashes. Engines send none if the router does not use them; then only the order of use counts. The
last block of a prompt counts as used before the first one, so that it is evicted before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush

from dynamo_cli.kv.hashes import ROOT
from dynamo_cli.kv.holdings import Holdings

LEAST_STALE = 1_000
"""So many entries of the queue may be out of date in any case; with more it may be made anew."""


@dataclass(slots=True, eq=False)
class Block:
    """A block in a slot.

    Attributes:
        key: the engines' key of it.
        sequence_hash: what the router knows it by; `ROOT` if that is not known.
        parent: what the router knows the block before it by; `ROOT` for a first block.
        before: the block before it in the prompt, if it is in the cache and known.
        followers: number of blocks in the cache that directly follow it.
        pins: number of requests that read it.
        used: when it was used last, in uses of all blocks.
    """

    key: bytes
    slot: int
    sequence_hash: int = ROOT
    parent: int = ROOT
    before: Block | None = None
    followers: int = 0
    pins: int = 0
    used: int = 0

    @property
    def evictable(self) -> bool:
        """Whether its slot can be taken for another block."""
        return not self.pins and not self.followers


class TierBlocks:
    """All blocks of one tier of the host cache.

    Args:
        holdings: what the router is told of them; made if not given.
        reach: what the router is told of all tiers together; None if there is only this one.

    Attributes:
        holdings: as above.
        pinned: number of blocks with pins.
    """

    def __init__(self, holdings: Holdings | None = None, reach: Holdings | None = None) -> None:
        # Blocks come with their hashes, not with tokens.
        self.holdings = holdings if holdings is not None else Holdings(block_size=0)
        self._told = [self.holdings] if reach is None else [self.holdings, reach]
        self.pinned = 0
        self._by_key: dict[bytes, Block] = {}
        self._by_slot: dict[int, Block] = {}
        self._by_hash: dict[int, Block] = {}
        self._uses = 0
        # (used, slot) of each block that can be evicted, and entries that are out of date
        self._queue: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return len(self._by_key)

    def get(self, key: bytes) -> Block | None:
        """The block with this key, if it is in the cache."""
        return self._by_key.get(key)

    def find(self, keys: Iterable[bytes]) -> list[Block | None]:
        """The blocks with these keys; None where there is none."""
        return list(map(self._by_key.get, keys))

    def add(self, key: bytes, slot: int, sequence_hash: int, parent: int) -> Block:
        """Add a block that is not in the cache.

        Args:
            sequence_hash, parent: of the block and of the one before it; both `ROOT` if they are
                not known.
        """
        block = self._by_key[key] = self._by_slot[slot] = Block(key, slot)
        # Of several blocks with one hash, as of the groups of hybrid models, the first stands for
        # all of them.
        if sequence_hash != ROOT and sequence_hash not in self._by_hash:
            block.sequence_hash, block.parent = sequence_hash, parent
            self._by_hash[sequence_hash] = block
            for holdings in self._told:
                holdings.add(sequence_hash, sequence_hash, parent)
            block.before = self._by_hash.get(parent)
            if block.before is not None:
                block.before.followers += 1
        return block

    def use(self, blocks: Sequence[Block]) -> None:
        """Note that these blocks of one prompt, in their order, are used now."""
        for block in reversed(blocks):
            self._uses += 1
            block.used = self._uses
            self._enqueue(block)

    def pin(self, blocks: Iterable[Block]) -> None:
        """Keep these blocks where they are, until they are unpinned as often."""
        for block in blocks:
            self.pinned += not block.pins
            block.pins += 1

    def unpin(self, blocks: Iterable[Block]) -> None:
        """Undo `pin`."""
        for block in blocks:
            block.pins -= 1
            self.pinned -= not block.pins
            self._enqueue(block)

    def evict(self) -> int | None:
        """Drop the block to evict next; returns its slot, None if no block can be evicted."""
        while self._queue:
            used, slot = heappop(self._queue)
            block = self._by_slot.get(slot)
            if block is not None and block.used == used and block.evictable:
                self.drop(block)
                return slot
        return None

    def drop(self, block: Block) -> None:
        """Forget a block of the cache, which is not pinned."""
        del self._by_key[block.key], self._by_slot[block.slot]
        if block.sequence_hash != ROOT:
            del self._by_hash[block.sequence_hash]
            for holdings in self._told:
                holdings.remove([block.sequence_hash])
        if block.before is not None:
            block.before.followers -= 1
            self._enqueue(block.before)

    def clear(self) -> list[int]:
        """Forget all blocks, also pinned ones; returns their slots."""
        slots = []
        for block in reversed(self._by_key.copy().values()):  # the ends of prompts first
            slots.append(block.slot)
            self.drop(block)
        self._queue.clear()
        return slots

    def _enqueue(self, block: Block) -> None:
        if block.evictable:
            heappush(self._queue, (block.used, block.slot))
            if len(self._queue) > 2 * len(self._by_slot) + LEAST_STALE:
                self._queue = [
                    (block.used, slot) for slot, block in self._by_slot.items() if block.evictable
                ]
                heapify(self._queue)
