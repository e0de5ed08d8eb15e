"""Measures the speed of a device that does several units of work at the same time. Pure."""

from __future__ import annotations

from collections.abc import Callable

from dynamo_cli.units import MS_NS, SECOND_NS

FORGET = 0.98
"""Factor by which each unit reduces the weight of all older ones: the last fifty or so count."""

GUESS_NS, GUESS_UNITS = MS_NS // 5, 4.0
"""Assumed time of a unit before any was done, and the weight of this guess. The guess is short: a
disk that seems slower than it is would not be used, and its speed would never be measured."""

STALE_NS = 10 * SECOND_NS
"""After so long without any unit the guess holds again, for the same reason."""


class ServiceTime:
    """Time per unit of work, counting only time in which there is any.

    Args:
        clock: gives nanoseconds; only differences count.

    Attributes:
        units: units that were done.
        spent_ns: time in which any were being done.
    """

    def __init__(self, clock: Callable[[], int]) -> None:
        self.units = self.spent_ns = 0
        self._clock = clock
        self._running = 0
        self._since_ns = clock()
        self._recent_units, self._recent_ns = GUESS_UNITS, GUESS_UNITS * GUESS_NS

    def begin(self) -> None:
        """A unit begins."""
        if not self._running:
            self._forget()
            self._since_ns = self._clock()
        self._running += 1

    def _forget(self) -> None:
        """Guess again if there was nothing to measure for long."""
        if not self._running and self._clock() - self._since_ns > STALE_NS:
            self._recent_units, self._recent_ns = GUESS_UNITS, GUESS_UNITS * GUESS_NS

    def end(self, *, ok: bool) -> None:
        """A unit has ended."""
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
        """Time of a unit, seconds; None before there was any."""
        return self._recent_ns / self._recent_units / SECOND_NS if self.units else None

    def within(self, span_ns: int) -> int:
        """How many units are done within this time."""
        self._forget()
        return int(span_ns * self._recent_units / self._recent_ns)
