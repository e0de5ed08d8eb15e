"""Lets a process on another machine tell the time by the monotonic clock of the head.

Messages carry times of that clock, and each machine counts from its own boot.
"""

from __future__ import annotations

import time


def shift(by_ns: int) -> None:
    """Add `by_ns` to what `time.monotonic` and `time.monotonic_ns` say in this process.

    Call it before anything else reads the clock; 0 changes nothing.
    """
    if not by_ns:
        return
    ns, s, by_s = time.monotonic_ns, time.monotonic, by_ns / 1e9
    time.monotonic_ns = lambda: ns() + by_ns
    time.monotonic = lambda: s() + by_s
