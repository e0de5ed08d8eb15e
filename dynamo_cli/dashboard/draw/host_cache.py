"""Draws the host cache's part of the cache tab. Pure."""

from __future__ import annotations

from rich.text import Text

from dynamo_cli.dashboard import format as show
from dynamo_cli.dashboard.draw.style import ACCENT, FAINT
from dynamo_cli.dashboard.draw.trends import Curve
from dynamo_cli.watch.host_cache_schema import DiskCacheView, HostCacheView
from dynamo_cli.watch.schema import WorkerView

LABEL = 12


def _rate(value: float | None) -> str:
    return show.NONE if value is None else show.size_rate(value)


CURVES = (
    Curve("found in the host cache", lambda one: one.host_found, show.percent, 1.0),
    Curve("loaded from the host", lambda one: one.host_loads_per_s, _rate),
    Curve("stored on the host", lambda one: one.host_stores_per_s, _rate),
)
"""Without a host cache none of these is measured, and so none is shown."""


def lines(cache: HostCacheView, workers: list[WorkerView], cells: int) -> list[Text]:
    """Draw how full it is, what was found in which tier, and copies.

    Args:
        cells: length of each bar.
    """
    if not cache.slots:
        return [_line("host cache", "no engine has opened it yet")]
    drawn = [
        Text(f"{'host cache':<{LABEL}}{'share':<{cells + 8}}", FAINT),
        _bar("used", cache.used / cache.slots, cells, f"of {_size(cache, cache.slots)}"),
        _bar("found", cache.recent_found_ratio, cells, "of what was asked for, last minute"),
        *_machines(cache, cells),
        *_tiers(cache, workers, cells),
        _line("loads", _copies(cache, "load")),
        _line("stores", _copies(cache, "store")),
        _line(
            "slots",
            f"{_size(cache, cache.pinned)} read, {_size(cache, cache.lent)} lent to write, "
            f"{show.number(cache.evicted)} blocks evicted",
        ),
    ]
    if cache.dropped:
        drawn.append(_line("not stored", _reasons(cache.dropped)))
    if cache.disk is not None:
        drawn += _disk(cache.disk, cache.slot_bytes, cells)
    if cache.refused:
        drawn.append(_line("refused", f"engines, {show.number(cache.refused)} times: see the log"))
    return drawn


def _disk(disk: DiskCacheView, slot_bytes: int, cells: int) -> list[Text]:
    """Draw how full the disk is, what came from it, and how fast it is."""
    if disk.off:
        return [_line("disk", f"not used: {disk.off}")]
    size = show.size(disk.places * slot_bytes)
    drawn = [
        _bar("on disk", disk.used / disk.places if disk.places else None, cells, f"of {size}"),
        _line("disk reads", _moved(disk.read, disk.read_s, disk.read_bytes_per_s, slot_bytes)),
        _line(
            "disk writes",
            _moved(disk.written, disk.write_s, disk.written_bytes_per_s, slot_bytes),
        ),
    ]
    if disk.dropped:
        drawn.append(_line("not on disk", _reasons(disk.dropped)))
    return drawn


def _moved(blocks: int, spent_s: float, recent: float, slot_bytes: int) -> str:
    """Blocks and bytes since the start, the speed of copies, and the recent rate."""
    nbytes = blocks * slot_bytes
    speed = f" at {show.size_rate(nbytes / spent_s)}" if spent_s else ""
    return f"{show.number(blocks)} blocks, {show.size(nbytes)}{speed}; now {show.size_rate(recent)}"


def _reasons(dropped: dict[str, int]) -> str:
    return f"{', '.join(f'{name} {show.number(n)}' for name, n in sorted(dropped.items()))} blocks"


def _machines(cache: HostCacheView, cells: int) -> list[Text]:
    """Draw how full the cache of each machine is, where there are several."""
    if len(cache.caches) < 2:
        return []
    return [
        _bar(
            one.process.removeprefix("host "),
            one.used / one.slots if one.slots else None,
            cells,
            "used",
        )
        for one in cache.caches
    ]


def _tiers(cache: HostCacheView, workers: list[WorkerView], cells: int) -> list[Text]:
    """Draw the share of prompt tokens that each tier had, since the start."""
    queries = sum(worker.prefix_cache_queries_tokens for worker in workers)
    hits = sum(worker.prefix_cache_hits_tokens for worker in workers)
    engine, host = (tokens / queries if queries else None for tokens in (hits, cache.loaded_tokens))
    return [
        _bar("in engines", engine, cells, "of prompt tokens since the start"),
        _bar("in host", host, cells, "more, loaded instead of computed"),
    ]


def _copies(cache: HostCacheView, direction: str) -> str:
    """Blocks and bytes since the start, the speed of copies, and the recent rate."""
    load = direction == "load"
    blocks = sum(one.loaded_blocks if load else one.stored_blocks for one in cache.engines)
    nbytes = sum(one.loaded_bytes if load else one.stored_bytes for one in cache.engines)
    spent_s = sum(one.load_s if load else one.store_s for one in cache.engines)
    recent = cache.loaded_bytes_per_s if load else cache.stored_bytes_per_s
    speed = f" at {show.size_rate(nbytes / spent_s)}" if spent_s else ""
    return f"{show.number(blocks)} blocks, {show.size(nbytes)}{speed}; now {show.size_rate(recent)}"


def _size(cache: HostCacheView, slots: int) -> str:
    return show.size(slots * cache.slot_bytes)


def _bar(name: str, ratio: float | None, cells: int, means: str) -> Text:
    return Text.assemble(
        name.ljust(LABEL),
        (show.bar(ratio or 0.0, cells), ACCENT),
        f" {show.percent(ratio):>6}",
        (f"  {means}", FAINT),
    )


def _line(name: str, value: str) -> Text:
    return Text.assemble((name.ljust(LABEL), FAINT), value)
