"""Tells whether a process that reports again is a new one or was only out of reach. Pure."""

from __future__ import annotations

from collections import defaultdict
from itertools import zip_longest
from typing import Any, TypeVar

import msgspec

from dynamo_cli.messages.host_cache import DiskStats, HostCacheStats, HostCopies
from dynamo_cli.messages.lifecycle import move_reason
from dynamo_cli.messages.prefill import TransferStats
from dynamo_cli.messages.request import MoveReason
from dynamo_cli.messages.telemetry import EngineCounts, WorkerStats
from dynamo_cli.topology import ProcessId, Role
from dynamo_cli.watch import disk_cache, engine_counts, host_cache, prefill

Report = TypeVar("Report")

_COUNTERS: dict[type, tuple[str, ...]] = {
    WorkerStats: (*engine_counts.COUNTERS, "counts"),
    EngineCounts: EngineCounts.__struct_fields__,
    TransferStats: prefill.TRANSFER_COUNTERS,
    HostCacheStats: (*host_cache.COUNTERS, "disk"),
    DiskStats: (*disk_cache.COUNTERS, "dropped"),
    HostCopies: (*host_cache.COPY_COUNTERS, "dropped"),
}


class Lives:
    """Lets the counters of a process begin at 0 whenever it is linked.

    When a link ends, others keep the totals of its process, and add to them what it reports later.
    A process that was started again counts from 0, as it should. But a process whose node was lost
    for a moment still lives, and its counters go on. So the values that they had when the node was
    lost are subtracted from its later reports. If a counter is smaller than it was, the process is
    a new one.
    """

    def __init__(self) -> None:
        self._last: defaultdict[ProcessId, dict[type, Any]] = defaultdict(dict)
        self._kept: dict[ProcessId, dict[type, Any]] = {}  # last reports when nodes were lost

    def since_link(self, report: Report) -> Report:
        """Return the report with counters that began at 0 when the process was linked.

        Reports of processes that never run on other nodes are returned as they are.
        """
        if (process := _sender(report)) is None:
            return report
        kind = type(report)
        kept = self._kept.get(process, {}).get(kind)
        try:
            news: Report = report if kept is None else _difference(report, kept)
        except _NewProcessError:
            self._forget(process)
            news = report
        self._last[process][kind] = report
        return news

    def unlinked(self, process: ProcessId, reason: str) -> None:
        """Note that a link has ended, for the reason that `LinkDown` gives."""
        if move_reason(reason) is MoveReason.NODE_LOST:
            self._kept[process] = dict(self._last[process])
        else:
            self._forget(process)

    def _forget(self, process: ProcessId) -> None:
        self._last.pop(process, None)
        self._kept.pop(process, None)


class _NewProcessError(Exception):
    """A counter is smaller than it was."""


def _sender(report: object) -> ProcessId | None:
    """The process that has sent a report; None unless it may run on another node."""
    match report:
        case HostCacheStats():
            return ProcessId(Role.HOST_CACHE, report.machine)
        case WorkerStats():
            return ProcessId(Role.WORKER, report.worker)
        case TransferStats() | HostCopies():
            role = Role.PREFILL_WORKER if report.prefill else Role.WORKER
            return ProcessId(role, report.worker)
    return None


def _difference(now: Any, before: Any) -> Any:
    """By how much a counter, or each counter of a report, has grown; all else is that of `now`.

    Raises:
        _NewProcessError: a counter is smaller than before.
    """
    match now:
        case msgspec.Struct() if before is not None:
            names = _COUNTERS[type(now)]
            news = {name: _difference(getattr(now, name), getattr(before, name)) for name in names}
            return msgspec.structs.replace(now, **news)
        case dict():
            return {
                name: _difference(now.get(name, 0), before.get(name, 0)) for name in before | now
            }
        case tuple():
            return tuple(_difference(*pair) for pair in zip_longest(now, before, fillvalue=0))
        case int() | float():
            if now < before:
                raise _NewProcessError
            return now - before
    return now  # there is no disk now, or there was none before
