"""Draws a small chart for each worker, with the same scale for all. Pure."""

from __future__ import annotations

from itertools import zip_longest

from rich.text import Text

from dynamo_cli.dashboard import format as show
from dynamo_cli.dashboard.draw.style import ACCENT, FAINT, STRONG, fitting
from dynamo_cli.dashboard.draw.workers import Worker, curve, workers_of
from dynamo_cli.dashboard.model import Board

LEAST_WIDTH, LEAST_HEIGHT = 36, 3
GAP = "   "


def draw(board: Board, width: int, height: int) -> Text:
    """Draw output tokens per second of the last five minutes, one chart for each worker, as many as
    there is room for."""
    rows = workers_of(board)
    if not rows or height < LEAST_HEIGHT:
        return Text("")
    columns, lines = _grid(len(rows), width, height)
    each, tall = (width - len(GAP) * (columns - 1)) // columns, height // lines - 1
    shown = rows[: columns * lines]
    values = [curve(row, lambda sample: sample.output_tokens_per_s) for row in shown]
    top = rows[0].peak.output_tokens_per_s
    charts = [_chart(row, one, each, tall, top) for row, one in zip(shown, values, strict=True)]
    drawn: list[Text] = []
    for start in range(0, len(charts), columns):
        beside = charts[start : start + columns]
        drawn += [Text(GAP).join(parts) for parts in zip_longest(*beside, fillvalue=Text(""))]
    return Text("\n").join(drawn)


def _grid(count: int, width: int, height: int) -> tuple[int, int]:
    """Choose the numbers of columns and of lines of charts: as few columns as all need."""
    most_columns = max((width + len(GAP)) // (LEAST_WIDTH + len(GAP)), 1)
    most_lines = max(height // LEAST_HEIGHT, 1)
    columns = next(
        (n for n in range(1, most_columns + 1) if -(-count // n) * 6 <= height), most_columns
    )
    return columns, min(-(-count // columns), most_lines)


def _chart(
    row: Worker, values: list[float | None], width: int, height: int, top: float
) -> list[Text]:
    view = row.view
    name = Text(f"worker {view.worker}", FAINT)
    rate = Text(f"{show.number(round(view.output_tokens_per_s))} tok/s", STRONG)
    ttft = Text(f"TTFT p95 {show.seconds(view.ttft_p95_s)}", FAINT)
    span = Text("≤ 5 min", FAINT)
    title = fitting(width, [name, rate, ttft, span])
    title.append(" " * (width - title.cell_len))
    return [title, *(Text(line, ACCENT) for line in show.chart(values, width, height, top))]
