"""Who holds which prefix blocks. Pure.

A map from sequence hash to the set of workers that hold the block, as bits of one integer. What
workers publish is closed (see `holdings`): who holds a block holds all before it, so the depth to
which a worker knows a prompt is found by bisection, for all workers at once. The number of entries
is bounded by what the engines can hold.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

KEY_BYTES = 48
"""Of one integer of 64 bits, as the allocator rounds it."""


@dataclass(slots=True)
class PrefixIndex:
    """Prefix blocks of all workers.

    Attributes:
        blocks: how many each worker holds.
        unknown_removals: removed blocks that the worker was not known to hold.
    """

    blocks: Counter[int] = field(default_factory=Counter)
    unknown_removals: int = 0
    _holders: dict[int, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._holders)

    def store(self, worker: int, hashes: Iterable[int]) -> None:
        """These are now held by the worker as well."""
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
        """These are not held by the worker any more."""
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
        """Nothing is held by the worker any more. Looks at every entry."""
        if self.blocks.pop(worker, 0):
            bit = 1 << worker
            held = [block for block, holders in self._holders.items() if holders & bit]
            self.remove(worker, held)
            del self.blocks[worker]

    def holds(self, worker: int, block: int) -> bool:
        """Whether the worker holds this block."""
        return bool(self._holders.get(block, 0) >> worker & 1)

    def leading(self, hashes: Sequence[int]) -> dict[int, int]:
        """How many leading blocks of a prompt each worker holds; workers without any are left out.

        O(d log n) for n blocks and d different depths.
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
        """About how much memory the entries take."""
        return sys.getsizeof(self._holders) + KEY_BYTES * len(self._holders)
