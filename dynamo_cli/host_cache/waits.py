"""Questions of engines whose answers wait for blocks from the disk. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from dynamo_cli.topology import ProcessId

LATE = "late"
"""Why a block was not waited for any longer: it did not come in time."""

QuestionKey = tuple[ProcessId, str]
"""An engine, and its name of a question."""


@dataclass(slots=True)
class Wait:
    """A question whose answer waits.

    Attributes:
        slots: the answer, as far as it is known.
        until_ns: when it is given in any case.
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
        """Let a question wait if it awaits anything; returns whether it does."""
        if wait.awaited:
            self._waits[question] = wait
        return bool(wait.awaited)

    def came(self, question: QuestionKey, key: bytes, slot: int) -> bool:
        """A block is in a slot, or `MISSING`; returns whether this question still waits for it."""
        wait = self._waits.get(question)
        index = wait.awaited.pop(key, None) if wait is not None else None
        if wait is None or index is None:
            return False
        wait.slots[index] = slot
        return True

    def forget(self, engine: ProcessId, name: str | None = None) -> None:
        """A question needs no answer any more, or none of an engine does; reads go on."""
        for question in [one for one in self._waits if one[0] == engine]:
            if name in (None, question[1]):
                del self._waits[question]

    def answers(self) -> list[tuple[ProcessId, str, list[int]]]:
        """The answers that need not wait any more: engine, name of the question, and slots."""
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
        """When the first answer is due, on the clock; None if none waits."""
        return min((wait.until_ns for wait in self._waits.values()), default=None)
