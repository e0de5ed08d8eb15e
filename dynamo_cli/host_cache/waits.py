"""Questions of engines whose answers wait for blocks from the disk. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from dynamo_cli.topology import ProcessId

LATE = "late"
"""Reason for a block that was not read in time for its question."""

QuestionKey = tuple[ProcessId, str]
"""An engine, and its name of a question."""


@dataclass(slots=True)
class Wait:
    """A question whose answer waits.

    Attributes:
        slots: the answer so far: a slot for each block, or `MISSING`.
        until_ns: when the answer is given at the latest.
        awaited: key of each block that is being read, and its index in `slots`.
    """

    slots: list[int]
    until_ns: int
    awaited: dict[bytes, int] = field(default_factory=dict)


class Waits:
    """All questions that wait.

    Args:
        clock: gives nanoseconds; only differences count.
        dropped: counts the blocks that were late.
    """

    def __init__(self, clock: Callable[[], int], dropped: Counter[str]) -> None:
        self._clock = clock
        self._dropped = dropped
        self._waits: dict[QuestionKey, Wait] = {}

    def add(self, question: QuestionKey, wait: Wait) -> bool:
        """Let a question wait if it awaits any block; returns whether it does."""
        if wait.awaited:
            self._waits[question] = wait
        return bool(wait.awaited)

    def came(self, question: QuestionKey, key: bytes, slot: int) -> bool:
        """Note that a block was read into this slot, or could not be read (`MISSING`).

        Returns:
            whether this question still waited for the block.
        """
        wait = self._waits.get(question)
        index = wait.awaited.pop(key, None) if wait is not None else None
        if wait is None or index is None:
            return False
        wait.slots[index] = slot
        return True

    def forget(self, engine: ProcessId, name: str | None = None) -> None:
        """Drop one question of an engine, or all of them if `name` is None. Reads go on."""
        for question in [one for one in self._waits if one[0] == engine]:
            if name in (None, question[1]):
                del self._waits[question]

    def answers(self) -> list[tuple[ProcessId, str, list[int]]]:
        """Take the answers that need not wait any more: engine, name of the question, and slots."""
        if not self._waits:
            return []
        now_ns = self._clock()
        ready = [
            question
            for question, wait in self._waits.items()
            if not wait.awaited or wait.until_ns <= now_ns
        ]
        told = []
        for question in ready:
            wait = self._waits.pop(question)
            if wait.awaited:
                self._dropped[LATE] += len(wait.awaited)
            told.append((*question, wait.slots))
        return told

    @property
    def due_ns(self) -> int | None:
        """When the next answer is due, on the clock; None if no question waits."""
        return min((wait.until_ns for wait in self._waits.values()), default=None)
