"""The time that a process has watched others: pauses of its own do not count. Pure."""

from __future__ import annotations

from collections.abc import Callable

MOST_LOOKS = 1.5
"""What passes between two looks counts as at most so many intervals: beyond that the process was
not awake itself, since it was stopped or the machine gave it no time."""


class AwakeClock:
    """Time in seconds; who judges how long another process is silent looks at regular intervals.

    A machine that is too busy, or was stopped, delays the judge as well as the others. Silence that
    is measured by this clock lasts as long as the judge could have heard something.

    Args:
        look_s: seconds between two looks.
        clock: gives seconds; only differences count.
    """

    def __init__(self, look_s: float, clock: Callable[[], float]) -> None:
        self._most_s = MOST_LOOKS * look_s
        self._clock = clock
        self._looked_s = clock()
        self._before_s = 0.0

    def now(self) -> float:
        """The time by this clock."""
        return self._before_s + min(self._clock() - self._looked_s, self._most_s)

    def look(self) -> float:
        """The process looks now, since it is awake; returns the time by this clock."""
        self._before_s, self._looked_s = self.now(), self._clock()
        return self._before_s
