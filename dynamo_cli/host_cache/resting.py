"""Slots that nobody gets for a while. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from dynamo_cli.units import SECOND_NS

REST_NS = 5 * SECOND_NS
"""How long the slots of an engine that has died are lent to nobody. Ranks of an engine on several
devices are processes of their own, which the kernel ends after it: their last copies may still
run."""


class Resting:
    """Slots and until when they rest; those that began first end first.

    Args:
        clock: gives nanoseconds; only differences count.
    """

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock
        self._until_ns: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._until_ns)

    def __iter__(self) -> Iterator[int]:
        return iter(self._until_ns)

    def begin(self, slots: Iterable[int]) -> None:
        """These slots rest from now on."""
        self._until_ns.update(dict.fromkeys(slots, self._clock() + REST_NS))

    def drop(self, slots: Iterable[int]) -> None:
        """Those of these slots that rest do so no more."""
        for slot in slots:
            self._until_ns.pop(slot, None)

    def ended(self) -> list[int]:
        """The slots that have rested long enough, which rest no more."""
        now_ns = self._clock() if self._until_ns else 0
        if next(iter(self._until_ns.values()), now_ns + 1) > now_ns:
            return []
        ended = [slot for slot, until_ns in self._until_ns.items() if until_ns <= now_ns]
        self.drop(ended)
        return ended
