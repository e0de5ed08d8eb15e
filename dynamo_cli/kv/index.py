"""Which worker holds which prefix blocks. Pure.

The index maps a sequence hash to the set of workers that hold the block, as bits of one integer.
The sets that workers publish are closed (see `holdings`): a worker that holds a block holds all
blocks before it. So the number of leading blocks that a worker holds is found by bisection, for all
workers at once. The number of entries is bounded by what the engines can hold.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

KEY_BYTES = 48
"""Memory of one integer of 64 bits, as the allocator rounds it."""


@dataclass(slots=True)
class PrefixIndex:
    """Prefix blocks of all workers.

    Attributes:
        blocks: number of blocks that each worker holds.
        unknown_removals: number of removed blocks that the worker did not hold in this index.
    """

    blocks: Counter[int] = field(default_factory=Counter)
    unknown_removals: int = 0
    _holders: dict[int, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._holders)

    def store(self, worker: int, hashes: Iterable[int]) -> None:
        """Note that the worker holds these blocks."""
        bit, holders, added = 1 << worker, self._holders, 0
        for block in hashes:
            held = holders.get(block)
            if held is None:
                holders[block] = bit
            elif held & bit:
                continue
            else:
                holders[block] = held | bit
            added += 1
        self.blocks[worker] += added

    def remove(self, worker: int, hashes: Iterable[int]) -> None:
        """Note that the worker holds these blocks no longer."""
        bit, holders, gone = 1 << worker, self._holders, 0
        for block in hashes:
            held = holders.get(block, 0)
            if not held & bit:
                self.unknown_removals += 1
                continue
            if held == bit:
                del holders[block]
            else:
                holders[block] = held & ~bit
            gone += 1
        self.blocks[worker] -= gone

    def drop(self, worker: int) -> None:
        """Remove all blocks of a worker. This looks at every entry."""
        if self.blocks.pop(worker, 0):
            bit = 1 << worker
            held = [block for block, holders in self._holders.items() if holders & bit]
            self.remove(worker, held)
            del self.blocks[worker]

    def holds(self, worker: int, block: int) -> bool:
        """Tell whether the worker holds this block."""
        return bool(self._holders.get(block, 0) >> worker & 1)

    def leading(self, hashes: Sequence[int]) -> dict[int, int]:
        """Count the leading blocks of a prompt that each worker holds; workers with none are left
        out.

        It takes O(d log n) for n blocks and d different depths.
        """
        depths: dict[int, int] = {}
        get = self._holders.get
        # (lower bound, upper bound, workers whose depth lies within both)
        open_ranges = [(1, len(hashes), get(hashes[0], 0))] if hashes else []
        while open_ranges:
            low, high, workers = open_ranges.pop()
            while low < high and workers:
                middle = (low + high + 1) // 2
                deeper = get(hashes[middle - 1], 0) & workers
                if deeper != workers:
                    if deeper:
                        open_ranges.append((middle, high, deeper))
                        workers ^= deeper
                    high = middle - 1
                else:
                    low = middle
            while workers:
                lowest = workers & -workers
                depths[lowest.bit_length() - 1] = low
                workers ^= lowest
        return depths

    def memory_bytes(self) -> int:
        """Estimate the memory of the entries."""
        return sys.getsizeof(self._holders) + KEY_BYTES * len(self._holders)
