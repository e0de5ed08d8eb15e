"""What the processes use and what the machine has left, from /proc and the control groups."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from dynamo_cli.host.memory import read_memory
from dynamo_cli.units import SECOND_NS
from dynamo_cli.watch.host import HostReport, ProcessUse
from dynamo_cli.watch.load_schema import HostView

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
REFRESH_NS = SECOND_NS
SPAN_NS = 5 * SECOND_NS
"""CPU time is averaged over this time: the kernel counts it in steps of 10 ms."""


class _Reading(NamedTuple):
    """Counters of a process: CPU time of all its threads, and for its main thread the time on a
    core and the time that it waited for one, seconds."""

    at_ns: int
    cpu_s: float
    on_core_s: float
    waited_s: float


class Host:
    """Figures of processes and of the machine, read at most once a second.

    Args:
        record: returns the state of the record; see `Recorder`.
    """

    def __init__(self, record: Callable[[], HostView]) -> None:
        self._record = record
        self._readings: dict[int, deque[_Reading]] = {}
        self._report = HostReport()
        self._read_ns = 0

    def report(self, pids: Iterable[int], now_ns: int) -> HostReport:
        """Return the figures, without processes that are gone."""
        if now_ns - self._read_ns >= REFRESH_NS:
            self._read_ns = now_ns
            self._report = self._read(pids, now_ns)
        return self._report

    def _read(self, pids: Iterable[int], now_ns: int) -> HostReport:
        before, self._readings = self._readings, {}
        uses = {}
        for pid in pids:
            if (resident := _resident(pid)) and (new := _reading(pid, now_ns)) is not None:
                past = self._readings[pid] = before.get(pid) or deque()
                past.append(new)
                while past[0].at_ns < now_ns - SPAN_NS:
                    past.popleft()
                uses[pid] = _use(resident, past[0], new)
        memory = read_memory()
        return HostReport(uses, _with_memory(self._record(), *memory))


def _with_memory(view: HostView, total: int, available: int) -> HostView:
    return HostView(
        total, available, view.record_total_bytes, view.record_free_bytes, view.unrecorded
    )


def _use(resident: int, first: _Reading, last: _Reading) -> ProcessUse:
    seconds = (last.at_ns - first.at_ns) / SECOND_NS
    if seconds <= 0:
        return ProcessUse(resident, last.cpu_s)
    demand = last.on_core_s - first.on_core_s + last.waited_s - first.waited_s
    return ProcessUse(
        resident, last.cpu_s, (last.cpu_s - first.cpu_s) / seconds, min(demand / seconds, 1.0)
    )


def _reading(pid: int, now_ns: int) -> _Reading | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        on_core_ns, waited_ns = Path(f"/proc/{pid}/schedstat").read_text().split()[:2]
    except OSError:
        return None  # it ended meanwhile
    cpu_s = (int(stat[11]) + int(stat[12])) / TICKS_PER_S
    return _Reading(now_ns, cpu_s, int(on_core_ns) / SECOND_NS, int(waited_ns) / SECOND_NS)


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES
    except OSError:
        return 0  # it ended meanwhile
