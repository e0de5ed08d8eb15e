"""Summaries side by side: for people, as JSON and as CSV. Pure."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import orjson
from rich.box import SIMPLE
from rich.markup import escape
from rich.table import Table

from dynamo_cli.lab.report import Ratio, Spread, Summary, ratio

PERCENT = 100
UNKNOWN = "-"

Value = float | None
Ratios = dict[str, Ratio | None]
"""By the name of the figure."""


class Figure(NamedTuple):
    """A row of the table.

    Attributes:
        name: with its unit.
        value: in a summary.
        optional: left out where no summary has it.
    """

    name: str
    value: Callable[[Summary], Value]
    optional: bool = False


def _of_spread(name: str, get: Callable[[Summary], Spread | None]) -> list[Figure]:
    def part(which: str) -> Callable[[Summary], Value]:
        return lambda summary: getattr(get(summary), which, None)

    return [Figure(f"{name} {which}, ms", part(which)) for which in Spread.__struct_fields__]


def _percent(share: float | None) -> Value:
    return None if share is None else PERCENT * share


FIGURES: tuple[Figure, ...] = (
    Figure("requests", lambda summary: summary.requests),
    Figure("errors", lambda summary: sum(summary.errors.values())),
    Figure("hit rate, %", lambda summary: _percent(summary.hit_ratio)),
    *_of_spread("TTFT", lambda summary: summary.ttft_ms),
    *_of_spread("E2E", lambda summary: summary.e2e_ms),
    Figure("ITL p99, ms", lambda summary: summary.itl_p99_ms),
    Figure("output tok/s", lambda summary: summary.output_tokens_per_s),
    Figure("requests/s", lambda summary: summary.requests_per_s),
    Figure("goodput, requests/s", lambda summary: summary.goodput_per_s, optional=True),
    Figure("goodput, %", lambda summary: _percent(summary.goodput_ratio), optional=True),
)
"""Everything that is compared."""


def figures(summaries: Sequence[Summary]) -> list[Figure]:
    """`FIGURES` that these have, then what is more in them."""
    common = [
        figure
        for figure in FIGURES
        if not figure.optional or any(figure.value(one) is not None for one in summaries)
    ]
    names = dict.fromkeys(name for one in summaries for name in one.more)
    return common + [Figure(name, _more(name)) for name in names]


def _more(name: str) -> Callable[[Summary], Value]:
    return lambda summary: summary.more.get(name)


def compare(first: Sequence[Summary], second: Sequence[Summary]) -> Ratios:
    """Second / first within each round, by the name of the figure."""
    rounds = list(zip(first, second, strict=True))
    return {
        figure.name: ratio([(figure.value(one), figure.value(two)) for one, two in rounds])
        for figure in figures([*first, *second])
    }


def table(columns: Mapping[str, Summary], title: str = "", ratios: Ratios | None = None) -> Table:
    """A figure per row, a summary per column; `ratios` of the second to the first beside them."""
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


def _ratio_cells(found: Ratio | None) -> list[str]:
    if found is None:
        return [UNKNOWN, ""]
    return [f"{found.median:.2f}", f"{found.low:.2f} to {found.high:.2f}"]


def number(value: Value) -> str:
    """With as many digits as say something."""
    if value is None:
        return UNKNOWN
    if float(value).is_integer() or abs(value) >= 1000:
        return f"{value:.0f}"
    return f"{value:.3g}"


def as_json(columns: Mapping[str, Summary], **more: Any) -> str:
    """The summaries under ``runs``, by name, and whatever else there is to say."""
    content = {"runs": dict(columns), **more}
    plain = msgspec.to_builtins(content, builtin_types=())
    return orjson.dumps(plain, option=orjson.OPT_INDENT_2).decode()


def as_csv(columns: Mapping[str, Summary]) -> str:
    """A line per summary, with all figures; what is unknown is empty."""
    rows = figures(list(columns.values()))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["name", *(figure.name for figure in rows)])
    for name, summary in columns.items():
        writer.writerow([name, *(figure.value(summary) for figure in rows)])
    return out.getvalue()
