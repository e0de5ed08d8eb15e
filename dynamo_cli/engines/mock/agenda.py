"""Keeps in which step something next happens to each request that decodes. Pure."""

from __future__ import annotations

import heapq
from collections.abc import Mapping

from dynamo_cli.engines.mock.request import SimRequest

NEVER = 1 << 62


class Agenda:
    """A heap of requests by step.

    An entry is valid as long as its request decodes in every step. The entry of a request that has
    left, or has begun to decode again after a pause, is skipped when its step comes.

    Args:
        running: the running requests by rank; the engine changes this mapping.
    """

    def __init__(self, running: Mapping[int, SimRequest]) -> None:
        self._running = running
        self._heap: list[tuple[int, int, int]] = []  # step, rank, step since which it decodes

    def add(self, step: int, request: SimRequest) -> None:
        """Note that something happens to this request in this step."""
        heapq.heappush(self._heap, (step, request.rank, request.since))

    def next(self) -> int:
        """The next step in which something happens; `NEVER` if nothing will happen."""
        heap = self._heap
        while heap and self._request(heap[0]) is None:
            heapq.heappop(heap)
        return heap[0][0] if heap else NEVER

    def take(self, step: int) -> SimRequest | None:
        """Take a request to which something happens in this step; None if there is none (left)."""
        heap = self._heap
        while heap and heap[0][0] <= step:  # entries of earlier steps are not valid any more
            if (request := self._request(heapq.heappop(heap))) is not None:
                return request
        return None

    def _request(self, entry: tuple[int, int, int]) -> SimRequest | None:
        _, rank, since = entry
        request = self._running.get(rank)
        return request if request is not None and request.since == since else None
