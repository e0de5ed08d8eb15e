"""Which worker holds which prefix blocks. Pure.

The index maps a sequence hash to the set of workers that hold the block, as bits of one integer.
The sets that workers publish are closed (see `holdings`): a worker that holds a block holds all
blocks before it. So the number of leading blocks that a worker holds is found by bisection, for all
workers at once. The number of entries is bounded by what the engines can hold.

An integer for a thousand workers takes 160 bytes. But consecutive blocks of a prompt mostly have
the same holders, and then they share one integer.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

KEY_BYTES = 48
"""Memory of one integer of 64 bits, as the allocator rounds it."""

EVERYBODY = -1
"""The set of all workers, as bits of one integer."""


def bits(workers: Iterable[int]) -> int:
    """A set of workers as bits of one integer."""
    found = 0
    for worker in workers:
        found |= 1 << worker
    return found


def workers_of(found: int) -> list[int]:
    """The workers in such a set, in their order."""
    return [worker for worker, bit in enumerate(reversed(bin(found))) if bit == "1"]


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
    _bits: dict[int, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._holders)

    def _bit(self, worker: int) -> int:
        """The set that has only this worker: always the same object, since most blocks have only
        one holder."""
        return self._bits.setdefault(worker, 1 << worker)

    def store(self, worker: int, hashes: Iterable[int]) -> None:
        """Note that the worker holds these blocks."""
        bit, holders, added = self._bit(worker), self._holders, 0
        before, after = 0, bit
        for block in hashes:
            held = holders.get(block, 0)
            if held is not before:
                if held & bit:
                    continue
                before, after = held, held | bit
            holders[block] = after
            added += 1
        self.blocks[worker] += added

    def remove(self, worker: int, hashes: Iterable[int]) -> None:
        """Note that the worker holds these blocks no longer."""
        bit, holders, gone = self._bit(worker), self._holders, 0
        before, after = bit, 0
        for block in hashes:
            held = holders.get(block, 0)
            if held is not before:
                if not held & bit:
                    self.unknown_removals += 1
                    continue
                before, after = held, held ^ bit
            if after:
                holders[block] = after
            else:
                del holders[block]
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

    def leading(self, hashes: Sequence[int], among: int = EVERYBODY) -> dict[int, int]:
        """Count the leading blocks of a prompt that each worker holds.

        Workers that hold none are left out. For n blocks, of which the workers hold d different
        numbers, this takes O(d log n).

        Args:
            hashes: sequence hashes of the prompt's blocks.
            among: counts only for these workers, as bits.
        """
        depths: dict[int, int] = {}
        for depth, group in self.by_depth(hashes, among):
            left = group
            while left:
                lowest = left & -left
                depths[lowest.bit_length() - 1] = depth
                left ^= lowest
        return depths

    def by_depth(self, hashes: Sequence[int], among: int = EVERYBODY) -> Iterator[tuple[int, int]]:
        """Group the workers that hold leading blocks of a prompt by how many they hold, most first.

        Yields:
            the number of blocks, and the workers that hold exactly so many, as bits.
        """
        get = self._holders.get
        workers = get(hashes[0], 0) & among if hashes else 0
        # (lower bound, upper bound, workers whose depth lies within both)
        open_ranges = [(1, len(hashes), workers)] if workers else []
        while open_ranges:
            low, high, workers = open_ranges.pop()
            while low < high:
                middle = (low + high + 1) // 2
                deeper = get(hashes[middle - 1], 0) & workers
                if deeper == workers:
                    low = middle
                elif not deeper:
                    high = middle - 1
                else:
                    open_ranges.append((low, middle - 1, workers ^ deeper))
                    low, workers = middle, deeper
            yield low, workers

    def memory_bytes(self) -> int:
        """Estimate the memory of the entries."""
        return sys.getsizeof(self._holders) + KEY_BYTES * len(self._holders)
