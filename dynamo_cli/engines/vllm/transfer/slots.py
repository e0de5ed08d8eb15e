"""Which transfer holds which slots of an arena. Pure: times are arguments, in nanoseconds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

RELEASED, OWNER_GONE, EXPIRED = "released", "owner_gone", "expired"
"""What ends the lease of slots."""


class _Lease(NamedTuple):
    owner: int
    slots: list[int]
    since_ns: int


@dataclass(slots=True)
class Slots:
    """Slots of one KV block each, leased to transfers.

    Args:
        capacity: number of slots.

    Attributes:
        refused: number of transfers for which there was no room.
        ended: number of transfers by what ended them.
        most_used: largest number of slots in use so far.
    """

    capacity: int
    refused: int = 0
    ended: Counter[str] = field(default_factory=Counter)
    most_used: int = 0
    _free: list[int] = field(default_factory=list)
    _leases: dict[str, _Lease] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._free = list(range(self.capacity))

    @property
    def used(self) -> int:
        """Number of slots in use."""
        return self.capacity - len(self._free)

    def reserve(self, transfer_id: str, owner: int, count: int, now_ns: int) -> list[int] | None:
        """Lease slots to a transfer to decode worker `owner`; None when there is no room."""
        if count > len(self._free) or transfer_id in self._leases:
            self.refused += 1
            return None
        # The lowest ones are neighbours, which are copied together, in memory that was used before.
        slots, self._free = self._free[:count], self._free[count:]
        self._leases[transfer_id] = _Lease(owner, slots, now_ns)
        self.most_used = max(self.most_used, self.used)
        return slots

    def release(self, transfer_id: str, reason: str = RELEASED) -> bool:
        """Free the slots of a transfer; False if it had none."""
        lease = self._leases.pop(transfer_id, None)
        if lease is None:
            return False
        self._free = sorted(self._free + lease.slots)
        self.ended[reason] += 1
        return True

    def owner_gone(self, owner: int) -> None:
        """Free all slots for a decode worker that is gone."""
        self._end(lambda lease: lease.owner == owner, OWNER_GONE)

    def expire(self, before_ns: int) -> None:
        """Free slots that were reserved before that time: the decode worker has forgotten them."""
        self._end(lambda lease: lease.since_ns < before_ns, EXPIRED)

    def _end(self, chosen: Callable[[_Lease], bool], reason: str) -> None:
        for transfer_id in [name for name, lease in self._leases.items() if chosen(lease)]:
            self.release(transfer_id, reason)
