"""What the processes use and what the machine has left, from /proc and the control groups."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from dynamo_cli.host.memory import read_memory
from dynamo_cli.messages.lifecycle import ProcessState
from dynamo_cli.topology import Role
from dynamo_cli.units import SECOND_NS
from dynamo_cli.watch.host import HostReport, ProcessUse
from dynamo_cli.watch.load_schema import HostView

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
REFRESH_NS = SECOND_NS
ENGINE_ROLES = (Role.WORKER, Role.PREFILL_WORKER, Role.ZYGOTE)
"""Processes with many threads, which compute whenever there is something to compute."""

SPAN_NS = 5 * SECOND_NS
"""CPU time is averaged over this time: the kernel counts it in steps of 10 ms."""


class _Reading(NamedTuple):
    """Counters of a process: CPU time of all its threads, and the time in which they were on a core
    or waited for one, seconds; None if that is not read."""

    at_ns: int
    cpu_s: float
    wanted_s: float | None


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

    def report(self, processes: Iterable[ProcessState], now_ns: int) -> HostReport:
        """Return the figures, without processes that are gone."""
        if now_ns - self._read_ns >= REFRESH_NS:
            self._read_ns = now_ns
            self._report = self._read(processes, now_ns)
        return self._report

    def _read(self, processes: Iterable[ProcessState], now_ns: int) -> HostReport:
        before, self._readings = self._readings, {}
        uses = {}
        for process in processes:
            pid, threads = process.pid, process.role not in ENGINE_ROLES
            new = _reading(pid, now_ns, threads=threads) if pid else None
            if new is not None and (resident := _resident(pid)):
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
    demand = None
    if last.wanted_s is not None and first.wanted_s is not None:
        demand = max(last.wanted_s - first.wanted_s, 0.0) / seconds
    return ProcessUse(resident, last.cpu_s, (last.cpu_s - first.cpu_s) / seconds, demand)


def _reading(pid: int, now_ns: int, *, threads: bool) -> _Reading | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        wanted_s = _wanted_s(pid) if threads else None
    except OSError:
        return None  # it ended meanwhile
    return _Reading(now_ns, (int(stat[11]) + int(stat[12])) / TICKS_PER_S, wanted_s)


def _wanted_s(pid: int) -> float | None:
    """Time in which threads were on a core or waited for one; None on a kernel that has no such
    statistics. A thread that ends takes its time with it."""
    wanted_ns = 0
    for file in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        try:
            on_core_ns, waited_ns, *_ = file.read_text().split()
        except OSError:
            continue
        wanted_ns += int(on_core_ns) + int(waited_ns)
    return wanted_ns / SECOND_NS if wanted_ns else None


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES
    except OSError:
        return 0  # it ended meanwhile
