"""How many connections the limit of open files leaves room for."""

from __future__ import annotations

import resource
from pathlib import Path

RESERVED = 128
"""Descriptors kept free for links to restarted processes, files in /proc and refused clients."""


def connections() -> int:
    """How many connections fit beside what is open now; 0 is no limit."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return 0
    return max(1, soft - len([*Path("/proc/self/fd").iterdir()]) - RESERVED)
