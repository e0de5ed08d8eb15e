"""A priority queue from which any item can be removed. Pure."""

from __future__ import annotations

import heapq
from collections.abc import Iterator

DEAD_ITEMS = 64
"""The heap is not rebuilt for fewer removed items than this."""

Item = tuple[int, int, str]
"""(rank, number, name): numbers are unique and decide between equal ranks."""


class LazyHeap:
    """Names by (rank, number), smallest first. Each change takes O(log n), amortized.

    It is a heap in which a removed item stays until it comes to the top. Since it may never come
    there, the heap is rebuilt when most of its items are removed ones.
    """

    def __init__(self) -> None:
        self._heap: list[Item] = []
        self._live: dict[str, Item] = {}

    def __len__(self) -> int:
        return len(self._live)

    def __iter__(self) -> Iterator[str]:
        """All names, in the order in which they were added."""
        return iter(self._live)

    def add(self, name: str, rank: int, number: int) -> None:
        """Add a name, or move it if it is there already."""
        item = (rank, number, name)
        self._live[name] = item
        heapq.heappush(self._heap, item)
        self._tidy()

    def discard(self, name: str) -> None:
        """Remove a name if it is there."""
        if self._live.pop(name, None) is not None:
            self._tidy()

    def first(self) -> Item | None:
        """Return the smallest item without removing it; None if there is none."""
        heap = self._heap
        while heap and self._live.get(heap[0][2]) != heap[0]:
            heapq.heappop(heap)
        return heap[0] if heap else None

    def due(self, limit: int) -> list[str]:
        """Remove and return all names of a rank up to `limit`, in order."""
        names = []
        while (item := self.first()) is not None and item[0] <= limit:
            names.append(item[2])
            del self._live[item[2]]
        return names

    def _tidy(self) -> None:
        if len(self._heap) > 2 * len(self._live) + DEAD_ITEMS:
            self._heap = list(self._live.values())
            heapq.heapify(self._heap)
