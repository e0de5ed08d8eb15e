"""What the processes use and what the machine has left, from /proc and the control groups."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from dynamo_cli.host import vital
from dynamo_cli.host.memory import Memory, read_memory
from dynamo_cli.messages.lifecycle import ProcessState
from dynamo_cli.topology import Role
from dynamo_cli.units import SECOND_NS
from dynamo_cli.watch.host import HostReport, ProcessUse
from dynamo_cli.watch.load_schema import HostView

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
INTERVAL_S = 1.0
CLOSE_S = 0.5
"""How long `close` waits for the thread."""

ENGINE_ROLES = (Role.WORKER, Role.PREFILL_WORKER, Role.ZYGOTE)
"""Processes with many threads, which compute whenever there is something to compute."""

SPAN_NS = 5 * SECOND_NS
"""CPU time is averaged over this time: the kernel counts it in steps of 10 ms."""


class _CpuReading(NamedTuple):
    """Counters of a process: CPU time of all its threads, and the time in which they were on a core
    or waited for one, seconds; None if that is not read."""

    at_ns: int
    cpu_s: float
    wanted_s: float | None


class HostMeter:
    """Figures of processes and of the machine, read once a second until `close`, in a thread: the
    files of many processes take milliseconds, for which no token should wait.

    Args:
        processes: returns the processes to look at; called in the thread.
        record: returns the state of the record; see `Recorder`.
    """

    def __init__(
        self, processes: Callable[[], Sequence[ProcessState]], record: Callable[[], HostView]
    ) -> None:
        self._processes = processes
        self._record = record
        self._readings: dict[int, deque[_CpuReading]] = {}
        self._uses: dict[int, ProcessUse] = {}
        self._memory = _memory()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="host", daemon=True)
        self._thread.start()

    def report(self) -> HostReport:
        """Return the last figures, without processes that are gone."""
        return HostReport(self._uses, _with_memory(self._record(), self._memory))

    def close(self) -> None:
        """Stop reading."""
        self._stopped.set()
        self._thread.join(CLOSE_S)

    # -- the thread --------------------------------------------------------------------------

    @vital.callback
    def _watch(self) -> None:
        while not self._stopped.wait(INTERVAL_S):
            self.look(self._processes(), time.monotonic_ns())
            self._memory = _memory()

    def look(self, processes: Iterable[ProcessState], now_ns: int) -> None:
        """Read what processes use."""
        before, self._readings = self._readings, {}
        uses = {}
        for process in processes:
            pid, threads = process.pid, process.role not in ENGINE_ROLES
            here = pid and not process.node  # numbers of other nodes mean other processes here
            new = _reading(pid, now_ns, threads=threads) if here else None
            if new is not None and (resident := _resident(pid)):
                past = self._readings[pid] = before.get(pid) or deque()
                past.append(new)
                while past[0].at_ns < now_ns - SPAN_NS:
                    past.popleft()
                uses[pid] = _use(resident, past[0], new)
        self._uses = uses


def _memory() -> Memory | None:
    try:
        return read_memory()
    except (OSError, ValueError, StopIteration):
        return None  # this system does not tell


def _with_memory(view: HostView, memory: Memory | None) -> HostView:
    total, available = memory or (None, None)
    return msgspec.structs.replace(view, memory_total_bytes=total, memory_available_bytes=available)


def _use(resident: int, first: _CpuReading, last: _CpuReading) -> ProcessUse:
    seconds = (last.at_ns - first.at_ns) / SECOND_NS
    if seconds <= 0:
        return ProcessUse(resident, last.cpu_s)
    demand = None
    if last.wanted_s is not None and first.wanted_s is not None:
        demand = max(last.wanted_s - first.wanted_s, 0.0) / seconds
    return ProcessUse(resident, last.cpu_s, (last.cpu_s - first.cpu_s) / seconds, demand)


def _reading(pid: int, now_ns: int, *, threads: bool) -> _CpuReading | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        wanted_s = _wanted_s(pid) if threads else None
    except OSError:
        return None  # it ended meanwhile
    return _CpuReading(now_ns, (int(stat[11]) + int(stat[12])) / TICKS_PER_S, wanted_s)


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
