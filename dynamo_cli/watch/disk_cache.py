"""What is known of the tier on disk, from the reports of the host cache. Pure."""

from __future__ import annotations

from collections import Counter

from dynamo_cli.messages.host_cache import DiskStats
from dynamo_cli.watch.growth import Growth
from dynamo_cli.watch.host_cache_schema import DiskCacheView

_COUNTERS = ("wanted", "found", "read", "read_s", "written", "write_s", "evicted")


class DiskCacheState:
    """Totals of the disk over all restarts of the host cache, and what it holds now."""

    def __init__(self) -> None:
        self._seen = False
        self._stats = DiskStats()
        self._slot_bytes = 0
        self._ended: Counter[str] = Counter()
        self._dropped: Counter[str] = Counter()
        self._read, self._written = Growth(10), Growth(10)

    def report(self, stats: DiskStats, slot_bytes: int, now_ns: int) -> None:
        """Take a report of the host cache, whose slots have this size."""
        self._seen = True
        self._stats, self._slot_bytes = stats, slot_bytes
        self._read.report(None, stats.read * slot_bytes, now_ns)
        self._written.report(None, stats.written * slot_bytes, now_ns)

    def gone(self) -> None:
        """Keep the totals of a host cache whose process ended; its file has ended with it."""
        self._ended.update({name: getattr(self._stats, name) for name in _COUNTERS})
        self._dropped.update(self._stats.dropped)
        self._stats = DiskStats()
        self._read.gone(None)
        self._written.gone(None)

    def view(self, now_ns: int) -> DiskCacheView | None:
        """Return the current view; None without a disk."""
        if not self._seen:
            return None
        stats = self._stats
        return DiskCacheView(
            places=stats.places,
            used=stats.used,
            **{name: self._ended[name] + getattr(stats, name) for name in _COUNTERS},
            read_bytes_per_s=self._read.rate(now_ns),
            written_bytes_per_s=self._written.rate(now_ns),
            dropped=dict(self._dropped + Counter(stats.dropped)),
            off=stats.off,
        )
