"""Numbers of slots of the host cache, packed for messages: 32 bits each."""

from __future__ import annotations

from array import array
from collections.abc import Sequence


def pack(slots: Sequence[int]) -> bytes:
    """Pack slots, or `MISSING` where there is none."""
    return array("i", slots).tobytes()


def unpack(packed: bytes) -> memoryview:
    """Unpack what `pack` made, without a copy: a sequence of int."""
    return memoryview(packed).cast("i")
