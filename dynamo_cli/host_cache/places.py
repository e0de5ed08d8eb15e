"""The places of the file on disk that hold no block. Pure."""

from __future__ import annotations

from dynamo_cli.units import SECOND_NS

FULL_REST_NS = 10 * SECOND_NS
"""How long the file does not grow after the disk was found to be full."""


class Places:
    """The free places. The file grows by one place when it has no free one.

    Args:
        count: places that the file may have.

    Attributes:
        count: as above.
        full: whether the disk had no room when the file was to grow the last time.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.full = False
        self._free: list[int] = []  # parts of the file that exist
        self._missing: list[int] = []  # parts of the file for which the disk had no room
        self._end = 0
        self._grows_ns = 0

    def take(self, now_ns: int) -> int | None:
        """Take a free place; None if there is none."""
        if self._free:
            return self._free.pop()
        if self.full and now_ns < self._grows_ns:
            return None
        self.full = False
        if self._missing:
            return self._missing.pop()
        if self._end == self.count:
            return None
        self._end += 1
        return self._end - 1

    def put(self, place: int) -> None:
        """Give back a place that holds no block any more."""
        self._free.append(place)

    def full_at(self, place: int, now_ns: int) -> None:
        """Note that the disk had no room for this place; wait before the file grows again."""
        self.full, self._grows_ns = True, now_ns + FULL_REST_NS
        self._missing.append(place)
