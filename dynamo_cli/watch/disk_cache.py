"""What is known of the tier on disk, from the reports of the host cache. Pure."""

from __future__ import annotations

from collections import Counter

from dynamo_cli.messages.host_cache import DiskStats
from dynamo_cli.watch.growth import Growth
from dynamo_cli.watch.host_cache_schema import DiskCacheView

COUNTERS = ("wanted", "found", "read", "read_s", "written", "write_s", "evicted")
"""Counters of `DiskStats` that begin with a process."""


class DiskCacheState:
    """Totals of the disks over all restarts of the host caches, and what they hold now."""

    def __init__(self) -> None:
        self._disks: dict[int, DiskStats] = {}  # by machine
        self._ended: Counter[str] = Counter()
        self._dropped: Counter[str] = Counter()
        self._read, self._written = Growth(10), Growth(10)

    def report(self, machine: int, stats: DiskStats, slot_bytes: int, now_ns: int) -> None:
        """Take a report of the host cache of a machine, whose slots have this size."""
        self._disks[machine] = stats
        self._read.report(machine, stats.read * slot_bytes, now_ns)
        self._written.report(machine, stats.written * slot_bytes, now_ns)

    def gone(self, machine: int) -> None:
        """Keep the totals of a host cache whose process ended; its file has ended with it."""
        if (stats := self._disks.get(machine)) is not None:
            self._ended.update({name: getattr(stats, name) for name in COUNTERS})
            self._dropped.update(stats.dropped)
            self._disks[machine] = DiskStats()
        self._read.gone(machine)
        self._written.gone(machine)

    def view(self, now_ns: int) -> DiskCacheView | None:
        """Return the current view; None without a disk."""
        disks = list(self._disks.values())
        if not disks:
            return None
        dropped = sum((Counter(stats.dropped) for stats in disks), self._dropped)
        return DiskCacheView(
            places=sum(stats.places for stats in disks),
            used=sum(stats.used for stats in disks),
            **{
                name: self._ended[name] + sum(getattr(stats, name) for stats in disks)
                for name in COUNTERS
            },
            read_bytes_per_s=self._read.rate(now_ns),
            written_bytes_per_s=self._written.rate(now_ns),
            dropped=dict(dropped),
            off=next((stats.off for stats in disks if stats.off), ""),
        )
