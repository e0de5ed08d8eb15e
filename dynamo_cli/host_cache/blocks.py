"""The blocks of a tier of the host cache: in which slots they are, and which is evicted next. Pure.

The least recently used block is evicted first, with two exceptions. A pinned block is not evicted,
and neither is a block that another block of the tier follows: engines look up a prompt block by
block, so a block without the block before it could never be found. Sequence hashes say which block
follows which. If the router uses no sequence hashes, engines send none; then only the order of use
counts. Of the blocks of one prompt, the last counts as the least recently used.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush

from dynamo_cli.kv.hashes import ROOT
from dynamo_cli.kv.holdings import Holdings

LEAST_STALE = 1_000
"""The queue is not rebuilt for fewer entries that are out of date than this."""


@dataclass(slots=True, eq=False)
class Block:
    """A block in a slot.

    Attributes:
        key: the name by which engines know the block.
        slot: its slot in memory, or its place in the file on disk.
        sequence_hash: the name by which the router knows it; `ROOT` if it is not known.
        parent: sequence hash of the block before it; `ROOT` for a first block.
        before: the block before it in the prompt; None if that is not in the tier, or not known.
        followers: number of blocks in the tier that directly follow it.
        pins: number of reasons to keep it, such as requests that read it.
        used: number of its last use, counted over the uses of all blocks.
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
        holdings: the blocks of this tier, as the router is told of them; made if not given.
        reach: the blocks of all tiers, as the router is told of them; None if there is only this
            tier.

    Attributes:
        holdings: as above.
        pinned: number of blocks with pins.
    """

    def __init__(self, holdings: Holdings | None = None, reach: Holdings | None = None) -> None:
        # The block size is needed only to hash tokens; here blocks come with their hashes.
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
            sequence_hash: of the block; `ROOT` if it is not known.
            parent: sequence hash of the block before it; `ROOT` if there is none, or if it is not
                known.
        """
        block = self._by_key[key] = self._by_slot[slot] = Block(key, slot)
        # In hybrid models, each group of layers has a block with this hash: the first one stands
        # for all of them.
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
        """Note that these blocks are used now; they are given in the order of their prompt."""
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
        """Drop the block to evict next; returns its slot, or None if no block can be evicted."""
        while self._queue:
            used, slot = heappop(self._queue)
            block = self._by_slot.get(slot)
            if block is not None and block.used == used and block.evictable:
                self.drop(block)
                return slot
        return None

    def drop(self, block: Block) -> None:
        """Forget a block of the tier."""
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
