"""Draws curves over time. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from rich.text import Text

from dynamo_cli.dashboard import format as show
from dynamo_cli.dashboard.draw.style import ACCENT, FAINT, STRONG
from dynamo_cli.dashboard.history import Sample

SPANS_S = (60, 300, 3600)
TWO_COLUMNS_FROM, THREE_COLUMNS_FROM = 110, 165
TALLEST = 24
SHOWN = 0.85
"""Least share of the curves that could be shown."""


@dataclass(frozen=True, slots=True)
class Curve:
    """A curve.

    Attributes:
        title: its title.
        value: returns its value in a sample.
        words: formats a value.
        top: value at the upper edge; None takes the highest value.
    """

    title: str
    value: Callable[[Sample], float | None]
    words: Callable[[float | None], str] = show.number
    top: float | None = None


def draw(
    samples: Sequence[Sample], curves: Sequence[Curve], width: int, height: int, span_s: int
) -> Text:
    """Draw as many of the curves as there is room for, in up to three columns. Curves that were
    never measured are left out.

    Args:
        samples: one sample a second, oldest first.
        curves: the curves.
        width, height: available cells.
        span_s: largest time span of the curves, seconds.
    """
    curves = _measured(samples, curves)
    columns, rows = _grid(len(curves), width, height)
    tall = min((height - 1) // rows - 1, TALLEST)
    if tall < 1:
        return Text("")
    shown = curves[: rows * columns]
    span_s = _fitting(len(samples), span_s)
    each = (width - 3 * (columns - 1)) // columns
    charts = [_one(samples, curve, each, tall, span_s) for curve in shown]
    lines: list[Text] = []
    for start in range(0, len(charts), columns):
        beside = charts[start : start + columns]
        lines += [Text("   ").join(parts) for parts in zip_longest(*beside, fillvalue=Text(""))]
    axis = [_axis(each, span_s) for _ in range(min(columns, len(charts)))]
    return Text("\n").join([*lines, Text("   ").join(axis)])


def _measured(samples: Sequence[Sample], curves: Sequence[Curve]) -> Sequence[Curve]:
    known = [curve for curve in curves if any(curve.value(one) is not None for one in samples)]
    return known or curves[:1]


def _grid(curves: int, width: int, height: int) -> tuple[int, int]:
    """Choose the numbers of columns and rows, which are full: as many columns as possible without
    leaving out many curves."""
    most = 3 if width >= THREE_COLUMNS_FROM else 2 if width >= TWO_COLUMNS_FROM else 1
    choices = [
        (columns, max(min(curves // columns, (height - 1) // 2), 1))
        for columns in range(1, min(most, curves) + 1)
    ]
    best = max(columns * rows for columns, rows in choices)
    return [one for one in choices if one[0] * one[1] >= SHOWN * best][-1]


def _fitting(known_s: int, most_s: int) -> int:
    """Choose the shortest span that shows all samples, or else the largest allowed one."""
    return next((span for span in SPANS_S if span >= min(known_s, most_s)), most_s)


def _one(
    samples: Sequence[Sample], curve: Curve, width: int, height: int, span_s: int
) -> list[Text]:
    values = [curve.value(sample) for sample in samples[-span_s:]]
    known = [value for value in values if value is not None]
    now = values[-1] if values else None
    most = f"max {curve.words(max(known))}" if known else ""
    title = Text.assemble((curve.title, FAINT), " ", (curve.words(now), STRONG))
    title.append(most.rjust(max(width - title.cell_len, 0)), FAINT)
    padded = [None] * (span_s - len(values)) + values
    return [title, *(Text(row, ACCENT) for row in show.chart(padded, width, height, curve.top))]


def _axis(width: int, span_s: int) -> Text:
    left = f"{show.duration(span_s)} ago "
    return Text(left + "─" * (width - len(left) - 4) + " now", FAINT)
