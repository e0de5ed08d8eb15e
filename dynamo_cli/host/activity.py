"""What the kernel says about a process that does not answer: stopped, computing, or idle."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

STOPPED_STATES = ("T", "t")


class Activity(NamedTuple):
    """What a process does.

    Attributes:
        stopped: a signal or a debugger has stopped it.
        cpu_s: processor time that it and its descendants have used, seconds.
    """

    stopped: bool
    cpu_s: float


def activity(pid: int) -> Activity:
    """Read it from /proc; a process that is gone has used nothing."""
    state, cpu_s = _stat(pid)
    return Activity(state in STOPPED_STATES, cpu_s + sum(_stat(child)[1] for child in _below(pid)))


def _stat(pid: int) -> tuple[str, float]:
    """State and processor time of one process; see proc_pid_stat(5)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return "", 0.0
    fields = text.rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])
    return fields[0], ticks / os.sysconf("SC_CLK_TCK")


def _below(pid: int) -> list[int]:
    """All descendants of a process."""
    found: list[int] = []
    try:
        for file in Path(f"/proc/{pid}/task").glob("*/children"):
            for child in map(int, file.read_text().split()):
                found += [child, *_below(child)]
    except OSError:
        pass  # it has ended meanwhile
    return found
