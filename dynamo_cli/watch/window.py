"""Sums and percentiles over the last seconds. Pure: the clock is an argument, nanoseconds."""

from __future__ import annotations

import math
from collections import deque

from dynamo_cli.units import SECOND_NS


class WindowSum:
    """Sum of the values within the window, kept in one bucket for each second.

    Args:
        window_s: length of the window.
    """

    def __init__(self, window_s: int = 10) -> None:
        self.window_s = window_s
        self._buckets: deque[list[float]] = deque()  # [second, sum]

    def add(self, value: float, now_ns: int) -> None:
        """Add a value."""
        second = now_ns // SECOND_NS
        if self._buckets and self._buckets[-1][0] == second:
            self._buckets[-1][1] += value
        else:
            self._forget(second)
            self._buckets.append([second, value])

    def total(self, now_ns: int) -> float:
        """Return the sum within the window."""
        self._forget(now_ns // SECOND_NS)
        return sum(value for _, value in self._buckets)

    def rate(self, now_ns: int) -> float:
        """Return the sum per second."""
        return self.total(now_ns) / self.window_s

    def _forget(self, second: int) -> None:
        while self._buckets and self._buckets[0][0] <= second - self.window_s:
            self._buckets.popleft()


class WindowSamples:
    """The newest `limit` values within the window.

    Args:
        window_s: length of the window.
        limit: most values that are kept, to bound memory; more make the window shorter.
    """

    def __init__(self, window_s: int = 10, limit: int = 4096) -> None:
        self._window_ns = window_s * SECOND_NS
        self._samples: deque[tuple[int, float]] = deque(maxlen=limit)

    def add(self, value: float, now_ns: int) -> None:
        """Add a value."""
        self._samples.append((now_ns, value))

    def __len__(self) -> int:
        """Number of values at the last call of `percentiles`, and of those that came since."""
        return len(self._samples)

    def percentiles(self, now_ns: int, *ranks: float) -> list[float | None]:
        """Return nearest-rank percentiles for `ranks` in 0..1; None for each without values."""
        while self._samples and self._samples[0][0] < now_ns - self._window_ns:
            self._samples.popleft()
        values = sorted(value for _, value in self._samples)
        if not values:
            return [None for _ in ranks]
        return [values[max(math.ceil(rank * len(values)) - 1, 0)] for rank in ranks]
