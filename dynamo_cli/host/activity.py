"""Reads from the kernel whether a process that does not answer is stopped, computing, or idle."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

STOPPED_STATES = ("T", "t")


class Activity(NamedTuple):
    """What a process does.

    Attributes:
        stopped: whether a signal or a debugger has stopped it.
        cpu_s: CPU time that it and its descendants have used, seconds.
    """

    stopped: bool
    cpu_s: float


def activity(pid: int) -> Activity:
    """Read the activity of a process from /proc; one that has ended is not stopped and has 0 s."""
    state, cpu_s = _stat(pid)
    return Activity(state in STOPPED_STATES, cpu_s + sum(_stat(child)[1] for child in _below(pid)))


def _stat(pid: int) -> tuple[str, float]:
    """Return state and CPU time in seconds of one process; see proc_pid_stat(5)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return "", 0.0
    fields = text.rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])
    return fields[0], ticks / os.sysconf("SC_CLK_TCK")


def _below(pid: int) -> list[int]:
    """Return the pids of all descendants of a process."""
    found: list[int] = []
    try:
        for file in Path(f"/proc/{pid}/task").glob("*/children"):
            for child in map(int, file.read_text().split()):
                found += [child, *_below(child)]
    except OSError:
        pass  # it has ended meanwhile
    return found
