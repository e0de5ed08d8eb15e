"""What is known of the host cache, from its reports and those of the engines. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

import msgspec

from dynamo_cli.messages.host_cache import HostCacheStats, HostCopies
from dynamo_cli.topology import ProcessId, Role
from dynamo_cli.watch.disk_cache import DiskCacheState
from dynamo_cli.watch.growth import Growth
from dynamo_cli.watch.host_cache_schema import HostCacheShare, HostCacheView, HostCopiesView
from dynamo_cli.watch.rates import HIT_WINDOW_S, ratio

_EMPTY = HostCacheStats(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
COUNTERS = (
    *("wanted", "found", "written", "duplicates", "evicted"),
    *("short", "refused", "invalid", "refused_sends"),
)
"""Counters of `HostCacheStats` that begin with a process."""

COPY_COUNTERS = (
    *("loaded_blocks", "loaded_bytes", "load_s"),
    *("stored_blocks", "stored_bytes", "store_s", "waited_s"),
)
"""Those of `HostCopies`."""

EngineKey = tuple[bool, int]
"""Whether it is a prefill worker, and its index among its kind."""


class HostCacheState:
    """Totals of the host caches over all restarts of them and of the engines, and what they hold.

    Each machine with engines has one.
    """

    def __init__(self) -> None:
        self._caches: dict[int, HostCacheStats] = {}
        self._ended: Counter[str] = Counter()
        self._copies: dict[EngineKey, HostCopies] = {}
        self._ended_copies: defaultdict[EngineKey, Counter[str]] = defaultdict(Counter)
        self._dropped: Counter[str] = Counter()
        self._wanted, self._found = Growth(HIT_WINDOW_S), Growth(HIT_WINDOW_S)
        self._loaded, self._stored = Growth(10), Growth(10)
        self._loaded_tokens = 0
        self._disk = DiskCacheState()

    def report(self, stats: HostCacheStats, now_ns: int) -> None:
        """Take a report of a host cache; its counters begin with its process."""
        self._caches[stats.machine] = stats
        self._wanted.report(stats.machine, stats.wanted, now_ns)
        self._found.report(stats.machine, stats.found, now_ns)
        if stats.disk is not None:
            self._disk.report(stats.machine, stats.disk, stats.slot_bytes, now_ns)

    def gone(self, machine: int) -> None:
        """Keep the totals of a host cache whose process ended; it holds nothing any more."""
        if (stats := self._caches.get(machine)) is not None:
            self._ended.update({name: getattr(stats, name) for name in COUNTERS})
            self._caches[machine] = msgspec.structs.replace(_EMPTY, machine=machine)
        self._wanted.gone(machine)
        self._found.gone(machine)
        self._disk.gone(machine)

    def copied(self, copies: HostCopies, now_ns: int) -> None:
        """Take a report of an engine; its counters begin with its process."""
        engine = (copies.prefill, copies.worker)
        before = self._copies.get(engine)
        blocks = copies.loaded_blocks - (before.loaded_blocks if before is not None else 0)
        self._loaded_tokens += max(0, blocks) * copies.block_tokens
        self._copies[engine] = copies
        self._loaded.report(engine, copies.loaded_bytes, now_ns)
        self._stored.report(engine, copies.stored_bytes, now_ns)

    def engine_gone(self, index: int, *, prefill: bool) -> None:
        """Keep the totals of an engine whose process ended."""
        engine = (prefill, index)
        copies = self._copies.pop(engine, None)
        if copies is not None:
            self._ended_copies[engine].update(_counters(copies))
            self._dropped.update(copies.dropped)
            self._loaded.gone(engine)
            self._stored.gone(engine)

    def view(self, now_ns: int) -> HostCacheView | None:
        """Return the current view; None without a host cache."""
        if not self._caches:
            return None
        totals = self._totals()
        dropped = self._dropped + sum(
            (Counter(copies.dropped) for copies in self._copies.values()), Counter[str]()
        )
        return HostCacheView(
            slots=self._sum("slots"),
            slot_bytes=max(stats.slot_bytes for stats in self._caches.values()),
            used=self._sum("used"),
            pinned=self._sum("pinned"),
            lent=self._sum("lent"),
            **totals,
            found_ratio=ratio(totals["found"], totals["wanted"]),
            recent_found_ratio=ratio(self._found.total(now_ns), self._wanted.total(now_ns)),
            loaded_tokens=self._loaded_tokens,
            loaded_bytes_per_s=self._loaded.rate(now_ns),
            stored_bytes_per_s=self._stored.rate(now_ns),
            dropped=dict(dropped),
            disk=self._disk.view(now_ns),
            engines=[
                self._engine(engine)
                for engine in sorted(self._copies.keys() | self._ended_copies.keys())
            ],
            caches=[_share(self._caches[machine]) for machine in sorted(self._caches)],
        )

    def _sum(self, name: str) -> int:
        return sum(getattr(stats, name) for stats in self._caches.values())

    def _totals(self) -> dict[str, int]:
        return {name: self._ended[name] + self._sum(name) for name in COUNTERS}

    def _engine(self, engine: EngineKey) -> HostCopiesView:
        """An engine's copies over all its restarts."""
        totals: dict[str, Any] = dict.fromkeys(COPY_COUNTERS, 0) | self._ended_copies[engine]
        if (copies := self._copies.get(engine)) is not None:
            now = _counters(copies)
            totals = {name: totals[name] + now[name] for name in COPY_COUNTERS}
        prefill, index = engine
        return HostCopiesView(prefill=prefill, worker=index, **totals)


def _share(stats: HostCacheStats) -> HostCacheShare:
    name = ProcessId(Role.HOST_CACHE, stats.machine).name
    return HostCacheShare(name, stats.slots, stats.used, stats.wanted, stats.found)


def _counters(copies: HostCopies) -> dict[str, Any]:
    return {name: getattr(copies, name) for name in COPY_COUNTERS}
