"""An order from which anything can be taken out. Pure."""

from __future__ import annotations

import heapq
from collections.abc import Iterator

DEAD_ITEMS = 64
"""So many are not worth a tidying."""

Item = tuple[int, int, str]
"""rank, number, name: numbers are unique and decide between equal ranks."""


class Ranking:
    """Names by (rank, number), smallest first. Each change costs O(log n), amortized.

    A heap in which an item that was taken out stays as dead weight until it comes up, or until most
    items are dead: a low rank may never come up.
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
        """Put a name at its place; one that is there already is moved."""
        item = (rank, number, name)
        self._live[name] = item
        heapq.heappush(self._heap, item)
        self._tidy()

    def discard(self, name: str) -> None:
        """Take a name out, if it is there."""
        if self._live.pop(name, None) is not None:
            self._tidy()

    def first(self) -> Item | None:
        """The smallest; it stays."""
        heap = self._heap
        while heap and self._live.get(heap[0][2]) != heap[0]:
            heapq.heappop(heap)
        return heap[0] if heap else None

    def due(self, limit: int) -> list[str]:
        """Take out all names of a rank up to `limit`, in order."""
        names = []
        while (item := self.first()) is not None and item[0] <= limit:
            names.append(item[2])
            del self._live[item[2]]
        return names

    def _tidy(self) -> None:
        if len(self._heap) > 2 * len(self._live) + DEAD_ITEMS:
            self._heap = list(self._live.values())
            heapq.heapify(self._heap)
