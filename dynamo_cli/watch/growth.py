"""How fast counters of processes grow. Pure."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from dynamo_cli.watch.window import WindowSum


class Growth:
    """Recent growth of counters that begin at 0 with each new process.

    Args:
        window_s: how far back it looks, seconds.
    """

    def __init__(self, window_s: int) -> None:
        self._window = WindowSum(window_s)
        self._last: defaultdict[Any, float] = defaultdict(float)

    def report(self, who: Any, value: float, now_ns: int) -> None:
        """Take the counter of a process."""
        if (new := value - self._last[who]) > 0:
            self._window.add(new, now_ns)
        self._last[who] = value

    def gone(self, who: Any) -> None:
        """The process has ended."""
        self._last.pop(who, None)

    def total(self, now_ns: int) -> float:
        """Growth within the window."""
        return self._window.total(now_ns)

    def rate(self, now_ns: int) -> float:
        """Growth per second."""
        return self._window.rate(now_ns)
