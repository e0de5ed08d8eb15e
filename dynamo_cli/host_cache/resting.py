"""Slots that are lent to nobody for a while, because the engine that had them has died. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from dynamo_cli.units import SECOND_NS

REST_NS = 5 * SECOND_NS
"""How long the slots of an engine that has died are lent to nobody. The ranks of an engine on
several devices are processes of their own. The kernel ends them a little later than the engine's
process, so their last copies may still be running."""


class Resting:
    """Slots that rest, each with the time at which its rest ends.

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
        """Let these slots rest for `REST_NS` from now on."""
        self._until_ns.update(dict.fromkeys(slots, self._clock() + REST_NS))

    def drop(self, slots: Iterable[int]) -> None:
        """End the rest of these slots; those that do not rest are ignored."""
        for slot in slots:
            self._until_ns.pop(slot, None)

    def ended(self) -> list[int]:
        """Take the slots whose rest is over."""
        now_ns = self._clock() if self._until_ns else 0
        if next(iter(self._until_ns.values()), now_ns + 1) > now_ns:
            return []
        ended = [slot for slot, until_ns in self._until_ns.items() if until_ns <= now_ns]
        self.drop(ended)
        return ended
