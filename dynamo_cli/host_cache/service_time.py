"""Measures the speed of a device that does several units of work at the same time. Pure."""

from __future__ import annotations

from collections.abc import Callable

from dynamo_cli.units import MS_NS, SECOND_NS

FORGET = 0.98
"""Factor by which each unit reduces the weight of all older ones: about the last fifty count."""

GUESS_NS, GUESS_UNITS = MS_NS // 5, 4.0
"""Assumed time of a unit before any was done, and the weight of this guess, in units. The guess is
short on purpose: if it were too long, the disk would not be used, and its speed would never be
measured."""

STALE_NS = 10 * SECOND_NS
"""After this time without any unit, the guess replaces what was measured, for the same reason."""


class ServiceTime:
    """Time per unit of work; time in which no unit is being done does not count.

    Args:
        clock: gives nanoseconds; only differences count.

    Attributes:
        units: number of units that were done without an error.
        spent_ns: time in which at least one unit was being done.
    """

    def __init__(self, clock: Callable[[], int]) -> None:
        self.units = self.spent_ns = 0
        self._clock = clock
        self._running = 0
        self._since_ns = clock()
        self._recent_units, self._recent_ns = GUESS_UNITS, GUESS_UNITS * GUESS_NS

    def begin(self) -> None:
        """Note that a unit begins."""
        if not self._running:
            self._forget()
            self._since_ns = self._clock()
        self._running += 1

    def _forget(self) -> None:
        """Go back to the guess if there was nothing to measure for `STALE_NS`."""
        if not self._running and self._clock() - self._since_ns > STALE_NS:
            self._recent_units, self._recent_ns = GUESS_UNITS, GUESS_UNITS * GUESS_NS

    def end(self, *, ok: bool) -> None:
        """Note that a unit has ended; `ok` says whether without an error."""
        now_ns = self._clock()
        spent_ns = now_ns - self._since_ns
        self._since_ns = now_ns
        self._running -= 1
        self.units += ok
        self.spent_ns += spent_ns
        self._recent_units = FORGET * self._recent_units + 1
        self._recent_ns = FORGET * self._recent_ns + spent_ns

    @property
    def unit_s(self) -> float | None:
        """Mean time of a unit, seconds; None before any was done."""
        return self._recent_ns / self._recent_units / SECOND_NS if self.units else None

    def within(self, span_ns: int) -> int:
        """How many units can be done within this time."""
        self._forget()
        return int(span_ns * self._recent_units / self._recent_ns)
