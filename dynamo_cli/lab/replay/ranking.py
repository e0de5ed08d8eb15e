"""Shows a replay as a table for people, with a row for each policy and the best figures marked.
Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from rich.box import SIMPLE
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from dynamo_cli.lab.replay.plan import PREEMPTIONS, SKEW
from dynamo_cli.lab.replay.verdict import Loads
from dynamo_cli.lab.report import Spread, Summary
from dynamo_cli.lab.table import TableValue, number, percent

BEST = "*"
GAP = 2
"""Columns of a terminal between two columns of the table."""

SECONDS_FROM_MS = 100_000
"""Times are shown in seconds where one of the column is at least this long."""


class RankingColumn(NamedTuple):
    """A figure of all policies.

    Attributes:
        name: its head, a word on each line.
        value: returns its value in a summary.
        best: the better one of some values; None if none is better.
        keep: columns with a smaller number are left out first where the terminal is narrow.
        optional: whether it is left out if it is 0 or not known everywhere.
    """

    name: str
    value: Callable[[Summary], TableValue]
    best: Callable[[Sequence[float]], float] | None
    keep: int
    optional: bool = False

    @property
    def is_time(self) -> bool:
        """Whether its values are milliseconds."""
        return self.name.endswith("ms")


def _part(get: Callable[[Summary], Spread | None], which: str) -> Callable[[Summary], TableValue]:
    return lambda summary: getattr(get(summary), which, None)


def _ttft(summary: Summary) -> Spread | None:
    return summary.ttft_ms


COLUMNS = (
    RankingColumn("hit\nrate\n%", lambda one: percent(one.hit_ratio), max, 9),
    RankingColumn("TTFT\nmean\nms", _part(_ttft, "mean"), min, 9),
    RankingColumn("TTFT\np50\nms", _part(_ttft, "p50"), min, 1),
    RankingColumn("TTFT\np99\nms", _part(_ttft, "p99"), min, 9),
    RankingColumn("E2E\nmean\nms", _part(lambda one: one.e2e_ms, "mean"), min, 6),
    RankingColumn("ITL\np99\nms", lambda one: one.itl_p99_ms, min, 5),
    RankingColumn("output\ntok/s", lambda one: one.output_tokens_per_s, max, 3),
    RankingColumn("goodput\n%", lambda one: percent(one.goodput_ratio), max, 8, optional=True),
    RankingColumn("load\nskew", lambda one: one.more.get(SKEW), min, 2),
    RankingColumn("pre-\nempted", lambda one: one.more.get(PREEMPTIONS), min, 4, optional=True),
    RankingColumn("errors", lambda one: sum(one.errors.values()), min, 9, optional=True),
)


def ranking(loads: Loads, speeds: Sequence[float], width: int, bounds: Sequence[str] = ()) -> Table:
    """Make one table of all policies at all loads.

    Args:
        loads: the summaries of each policy, for each load.
        speeds: speed of each load.
        width: columns of the terminal.
        bounds: names that are no policies, but bounds; their figures are never the best.
    """
    grid = Table(
        box=SIMPLE,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    named = len(speeds) > 1
    if named:
        grid.add_column("speed", justify="right", no_wrap=True, vertical="bottom")
    grid.add_column("policy", no_wrap=True, vertical="bottom")
    cells = [_cells(column, loads, bounds) for column in _known(loads)]
    used = len("speed") + GAP if named else 0
    used += max(len(name) for load in loads for name in load)
    shown = _fitting(cells, width - used)
    for each in shown:
        grid.add_column(each.head, justify="right", no_wrap=True)
    for place, (speed, load) in enumerate(zip(speeds, loads, strict=True)):
        for row, name in enumerate(load):
            first = [f"{speed:g}" if not row else ""] if named else []
            values = [each.rows[place][name] for each in shown]
            last = row == len(load) - 1
            grid.add_row(*first, escape(name), *values, end_section=last)
    return grid


class _Cells(NamedTuple):
    """A column as text: its head, and for each load the cell of each policy."""

    head: str
    rows: list[dict[str, Text]]
    keep: int

    @property
    def width(self) -> int:
        widest = max(len(cell) for row in self.rows for cell in row.values())
        return max(widest, *(len(word) for word in self.head.split("\n")))


def _known(loads: Loads) -> list[RankingColumn]:
    return [
        column
        for column in COLUMNS
        if not column.optional or any(column.value(one) for load in loads for one in load.values())
    ]


def _fitting(cells: list[_Cells], width: int) -> list[_Cells]:
    """Return the columns for which there is room, in their order."""
    shown = list(cells)
    while len(shown) > 1 and sum(each.width + GAP for each in shown) > width:
        shown.remove(min(shown, key=lambda each: each.keep))
    return shown


def _cells(column: RankingColumn, loads: Loads, bounds: Sequence[str]) -> _Cells:
    values = [{name: column.value(one) for name, one in load.items()} for load in loads]
    known = [value for load in values for value in load.values() if value is not None]
    head, scale = column.name, 1.0
    if column.is_time and max(known, default=0.0) >= SECONDS_FROM_MS:
        head, scale = column.name.removesuffix("ms") + "s", 1e-3
    return _Cells(head, [_marked(column, load, scale, bounds) for load in values], column.keep)


def _marked(
    column: RankingColumn, load: Mapping[str, TableValue], scale: float, bounds: Sequence[str]
) -> dict[str, Text]:
    """Return the cells of one load; those that show the best value are marked, if not all do."""
    texts = {name: number(None if value is None else scale * value) for name, value in load.items()}
    ranked = {name: value for name, value in load.items() if value is not None}
    ranked = {name: value for name, value in ranked.items() if name not in bounds}
    if column.best is None or len({texts[name] for name in ranked}) < 2:
        return {name: Text(text) for name, text in texts.items()}
    best = column.best(list(ranked.values()))
    top = texts[next(name for name, value in ranked.items() if value == best)]
    return {
        name: Text(BEST + text, "bold") if name in ranked and text == top else Text(text)
        for name, text in texts.items()
    }
