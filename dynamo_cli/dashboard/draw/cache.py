"""Draws the cache tab: hit rates, their limit, and the index. Pure."""

from __future__ import annotations

from rich.text import Text

from dynamo_cli.dashboard import format as show
from dynamo_cli.dashboard.draw import host_cache
from dynamo_cli.dashboard.draw.style import ACCENT, FAINT, STRONG, bar_cells, clipped
from dynamo_cli.dashboard.draw.trends import Curve
from dynamo_cli.dashboard.model import Board
from dynamo_cli.watch.schema import HitRatios, RouterView, Snapshot

UNROUTED_CURVES = (
    Curve("measured hit rate", lambda one: one.hit_measured, show.percent, 1.0),
    *host_cache.CURVES,
)
CURVES = (
    *UNROUTED_CURVES,
    Curve("estimated hit rate", lambda one: one.hit_estimated, show.percent, 1.0),
    Curve("limit: repeated before", lambda one: one.hit_limit, show.percent, 1.0),
    Curve("KV event blocks/s", lambda one: one.event_blocks_per_s),
)


def draw(board: Board, width: int) -> Text:
    """Draw hit rates with their limit, the index and its events."""
    snapshot = board.snapshot
    if snapshot is None:
        return Text("nothing is known yet", FAINT)
    router, cells = snapshot.router, bar_cells(width)
    if router is None:
        lines = _without_router(snapshot)
    elif router.overall.limit is None and router.overall.measured is None:
        lines = _not_routed_by_kv(snapshot, router, cells)
    else:
        lines = [*_ratios(router.recent, router.overall, cells), Text(""), *_index(router)]
    if snapshot.host_cache is not None:
        lines += [Text(""), *host_cache.lines(snapshot.host_cache, snapshot.workers, cells)]
    return Text("\n").join([clipped(line, width) for line in lines])


def _ratios(recent: HitRatios, overall: HitRatios, cells: int) -> list[Text]:
    head = Text(f"{'hit rate':<12}{'last minute':<{cells + 8}}  {'since start':>11}", FAINT)
    return [
        head,
        _ratio("measured", recent.measured, overall.measured, cells, "found by the engines"),
        _ratio("estimated", recent.estimated, overall.estimated, cells, "expected by the router"),
        _ratio("limit", recent.limit, overall.limit, cells, "was in earlier prompts"),
    ]


def _ratio(name: str, recent: float | None, overall: float | None, cells: int, means: str) -> Text:
    return Text.assemble(
        f"{name:<12}",
        (show.bar(recent or 0.0, cells), ACCENT),
        f" {show.percent(recent):>6} ",
        f"  {show.percent(overall):>11}",
        (f"   {means}", FAINT),
    )


def _index(router: RouterView) -> list[Text]:
    events = ", ".join(f"{show.number(n)} {name}" for name, n in router.event_blocks.items())
    resyncs = ", ".join(f"{n} {name}" for name, n in router.resyncs.items())
    held = "  ".join(f"{one.worker}: {show.number(one.index_blocks)}" for one in router.workers)
    lines = [
        _line(
            "index",
            f"{show.number(router.index_entries)} blocks, {show.size(router.index_bytes)}",
        ),
        _line("held by", held or show.NONE),
        _line("events", f"{show.rate(router.event_blocks_per_s)}  ({events or 'none yet'})"),
        _line("lag", f"{show.micros(router.event_lag_us)}, resyncs: {resyncs or 'none'}"),
        _line(
            "predicted",
            f"more than was found, for {show.number(router.over_predicted_requests)} requests",
        ),
    ]
    if router.forgotten_blocks:
        lines.append(_line("limit", f"{show.number(router.forgotten_blocks)} blocks forgotten"))
    return lines


def _line(name: str, value: str) -> Text:
    return Text.assemble((f"{name:<12}", FAINT), value)


def _without_router(snapshot: Snapshot) -> list[Text]:
    ratio = snapshot.workers[0].recent_hit_ratio if snapshot.workers else None
    return [
        Text.assemble(
            ("measured    ", FAINT), (show.percent(ratio), STRONG), " of the last minute"
        ),
        Text("There is no router: one worker serves everything, from its own cache.", FAINT),
        Text("Start with --workers 2 --router kv to send prompts where their prefix is.", FAINT),
    ]


def _not_routed_by_kv(snapshot: Snapshot, router: RouterView, cells: int) -> list[Text]:
    lines = [
        Text.assemble(
            (f"worker {worker.worker:<5}", FAINT),
            (show.bar(worker.recent_hit_ratio or 0.0, cells), ACCENT),
            f" {show.percent(worker.recent_hit_ratio):>6} of the last minute",
        )
        for worker in snapshot.workers
    ]
    if router.policy != "kv":
        why = f"The router is {router.policy}: it looks at no cache. --router kv does."
        lines.append(Text(why, FAINT))
    else:
        lines.append(Text("No prompt was routed yet.", FAINT))
    return lines
