"""Shows summaries side by side: as a table for people, as JSON and as CSV. Pure."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import orjson
from rich.box import SIMPLE
from rich.markup import escape
from rich.table import Table

from dynamo_cli.lab.report import Ratio, Spread, Summary, ratio

PERCENT = 100
UNKNOWN = "-"
GAP = 3
"""Columns of a terminal between two columns of a table."""

LEAST_WIDTH = len("1234567")

TableValue = float | None
Ratios = dict[str, Ratio | None]
"""Ratios by the name of the figure."""


class Figure(NamedTuple):
    """A row of the table.

    Attributes:
        name: name with the unit.
        value: returns its value in a summary.
        optional: whether it is left out if no summary has it.
    """

    name: str
    value: Callable[[Summary], TableValue]
    optional: bool = False


def _of_spread(name: str, get: Callable[[Summary], Spread | None]) -> list[Figure]:
    def part(which: str) -> Callable[[Summary], TableValue]:
        return lambda summary: getattr(get(summary), which, None)

    return [Figure(f"{name} {which}, ms", part(which)) for which in Spread.__struct_fields__]


def percent(share: float | None) -> TableValue:
    """Return a share in per cent."""
    return None if share is None else PERCENT * share


FIGURES: tuple[Figure, ...] = (
    Figure("requests", lambda summary: summary.requests),
    Figure("errors", lambda summary: sum(summary.errors.values())),
    Figure("duration, s", lambda summary: summary.duration_s),
    Figure("prompt tokens", lambda summary: summary.prompt_tokens),
    Figure("output tokens", lambda summary: summary.output_tokens),
    Figure("hit rate, %", lambda summary: percent(summary.hit_ratio)),
    *_of_spread("TTFT", lambda summary: summary.ttft_ms),
    *_of_spread("TPOT", lambda summary: summary.tpot_ms),
    *_of_spread("ITL", lambda summary: summary.itl_ms),
    *_of_spread("E2E", lambda summary: summary.e2e_ms),
    Figure("output tok/s", lambda summary: summary.output_tokens_per_s),
    Figure("requests/s", lambda summary: summary.requests_per_s),
    Figure("goodput, requests/s", lambda summary: summary.goodput_per_s, optional=True),
    Figure("goodput, %", lambda summary: percent(summary.goodput_ratio), optional=True),
)
"""All figures that are compared."""


def figures(summaries: Sequence[Summary]) -> list[Figure]:
    """Return the `FIGURES` that these summaries have, followed by their further figures."""
    common = [
        figure
        for figure in FIGURES
        if not figure.optional or any(figure.value(one) is not None for one in summaries)
    ]
    names = dict.fromkeys(name for one in summaries for name in one.more)
    return common + [Figure(name, _more(name)) for name in names]


def _more(name: str) -> Callable[[Summary], TableValue]:
    return lambda summary: summary.more.get(name)


def compare(first: Sequence[Summary], second: Sequence[Summary]) -> Ratios:
    """Return the ratio second / first over the rounds, by the name of the figure."""
    rounds = list(zip(first, second, strict=True))
    return {
        figure.name: ratio([(figure.value(one), figure.value(two)) for one, two in rounds])
        for figure in figures([*first, *second])
    }


def table(columns: Mapping[str, Summary], title: str = "", ratios: Ratios | None = None) -> Table:
    """Make a table with a row for each figure and a column for each summary.

    Args:
        columns: summaries by the title of their column.
        title: title of the table.
        ratios: ratios of the second summary to the first, shown in two more columns.
    """
    grid = Table(
        title=escape(title) or None,
        title_justify="left",
        box=SIMPLE,
        show_edge=False,
        pad_edge=False,
    )
    grid.add_column("", no_wrap=True)
    for name in columns:
        grid.add_column(escape(name), justify="right", overflow="fold")
    if ratios is not None:
        grid.add_column("ratio", justify="right", no_wrap=True)
        grid.add_column("range", justify="right", no_wrap=True)
    for figure in figures(list(columns.values())):
        cells = [number(figure.value(summary)) for summary in columns.values()]
        if ratios is not None:
            cells += _ratio_cells(ratios.get(figure.name))
        grid.add_row(figure.name, *cells)
    return grid


def parts(columns: Mapping[str, Summary], width: int) -> Iterator[dict[str, Summary]]:
    """Divide summaries so that each table of a part fits into `width` columns of a terminal."""
    names = max(len(figure.name) for figure in figures(list(columns.values())))
    room = max(1, (width - names) // (max(LEAST_WIDTH, *map(len, columns)) + GAP))
    entries = iter(columns.items())
    while part := dict(itertools.islice(entries, room)):
        yield part


def _ratio_cells(found: Ratio | None) -> list[str]:
    if found is None:
        return [UNKNOWN, ""]
    return [f"{found.median:.2f}", f"{found.low:.2f} to {found.high:.2f}"]


def number(value: TableValue) -> str:
    """Format a value with its significant digits."""
    if value is None:
        return UNKNOWN
    if float(value).is_integer() or abs(value) >= 1000:
        return f"{value:.0f}"
    return f"{value:.3g}"


def as_json(columns: Mapping[str, Summary], **more: Any) -> str:
    """Return JSON with the summaries by name under ``runs``, and the fields of `more`."""
    content = {"runs": dict(columns), **more}
    plain = msgspec.to_builtins(content, builtin_types=())
    return orjson.dumps(plain, option=orjson.OPT_INDENT_2).decode()


def as_csv(columns: Mapping[str, Summary]) -> str:
    """Return CSV with a line for each summary; a figure that is not known is empty."""
    rows = figures(list(columns.values()))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["name", *(figure.name for figure in rows)])
    for name, summary in columns.items():
        writer.writerow([name, *(figure.value(summary) for figure in rows)])
    return out.getvalue()
