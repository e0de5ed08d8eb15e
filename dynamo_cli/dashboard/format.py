"""Formats numbers, bars and curves for people. Pure."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

from dynamo_cli.units import KIB

NONE = "–"
EIGHTHS = " ▏▎▍▌▋▊▉█"
LEVELS = " ▁▂▃▄▅▆▇█"


def number(value: float | None) -> str:
    """Format a number in at most five characters: ``0``, ``7``, ``9.8``, ``123``, ``1.2k``,
    ``34.5M``."""
    if value is None:
        return NONE
    for unit in ("", "k", "M", "G"):
        if abs(value) < 999.5 or unit == "G":
            break
        value /= 1000
    whole = not unit and (value == int(value) or value >= 99.95)
    return f"{value:.0f}{unit}" if whole or value >= 99.95 else f"{value:.1f}{unit}"


def rate(value: float | None) -> str:
    """Format a rate per second, with one decimal below ten: ``0/s``, ``0.3/s``, ``12/s``; a dash if
    it is not known."""
    if value is None:
        return NONE
    return (
        "0/s" if value < 0.05 else f"{value:.1f}/s" if value < 9.95 else f"{number(round(value))}/s"
    )


def seconds(value: float | None) -> str:
    """Format a short time: ``0.4 ms``, ``12 ms``, ``1.2 s``, ``45 s``."""
    if value is None:
        return NONE
    if value < 0:
        return f"-{seconds(-value)}"
    if value < 0.9995:
        ms = value * 1000
        return f"{ms:.1f} ms" if 0 < ms < 9.95 else f"{ms:.0f} ms"
    return f"{value:.1f} s" if value < 99.95 else duration(value)


def two_times(middle: float | None, high: float | None) -> str:
    """Format a median and a 95th percentile with one unit: ``12/45 ms``, ``1.2/4.0 s``."""
    if middle is None or high is None:
        return NONE
    if high >= 0.9995:
        return f"{number(round(middle, 1))}/{number(round(high, 1))} s"
    return f"{number(_ms(middle))}/{number(_ms(high))} ms"


def milliseconds(value: float | None) -> str:
    """Format a time in milliseconds, without the unit."""
    return NONE if value is None else number(_ms(value))


def _ms(value_s: float) -> float:
    return round(value_s * 1000, 1) if value_s < 0.00995 else round(value_s * 1000)


def micros(value: float) -> str:
    """Format a time that is given in microseconds."""
    return f"{value:.0f} µs" if value < 999.5 else seconds(value / 1e6)


def duration(value: float) -> str:
    """Format a long time in two units: ``45s``, ``3m12s``, ``2h05m``, ``3d04h``."""
    whole = int(value)
    minutes, second = divmod(whole, 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days}d{hour:02}h"
    if hours:
        return f"{hours}h{minute:02}m"
    return f"{minutes}m{second:02}s" if minutes else f"{second}s"


def size(value: float) -> str:
    """Format a number of bytes: ``512 B``, ``1.4 GiB``; 0 means unknown and is a dash."""
    if not value:
        return NONE
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1000 or unit == "TiB":
            break
        value /= KIB
    return f"{value:.1f} {unit}" if value < 9.95 and unit != "B" else f"{value:.0f} {unit}"


def size_rate(value: float) -> str:
    """Format bytes per second: ``0/s``, ``12 MiB/s``."""
    return f"{size(value)}/s" if value >= 1 else "0/s"


def percent(value: float | None) -> str:
    """Format a ratio as percent: ``63 %``."""
    return NONE if value is None else f"{value * 100:.0f} %"


def clock(at_s: float) -> str:
    """Format the local time of day."""
    return time.strftime("%H:%M:%S", time.localtime(at_s))


def bar(ratio: float, width: int) -> str:
    """Draw a horizontal bar in exactly `width` cells, with a resolution of an eighth of a cell."""
    eighths = round(min(max(ratio, 0.0), 1.0) * width * 8)
    full, rest = divmod(eighths, 8)
    return ("█" * full + (EIGHTHS[rest] if rest else "")).ljust(width)


def level(ratio: float) -> str:
    """Draw a vertical bar of one cell; every value above 0 is visible."""
    return LEVELS[math.ceil(min(max(ratio, 0.0), 1.0) * 8)] if ratio > 0 else "·"


def resampled(values: Sequence[float | None], width: int) -> list[float | None]:
    """Resample values to `width` columns by their maximum; fewer values are stretched."""
    if len(values) <= width:
        return [values[column * len(values) // width] for column in range(width)] if values else []
    columns: list[float | None] = []
    for column in range(width):
        part = values[column * len(values) // width : (column + 1) * len(values) // width]
        known = [value for value in part if value is not None]
        columns.append(max(known) if known else None)
    return columns


def chart(
    values: Sequence[float | None], width: int, height: int, top: float | None = None
) -> list[str]:
    """Draw a bar chart, as `height` lines from top to bottom; columns without a value are empty.

    Args:
        values: values from left to right.
        width: number of columns.
        height: number of lines.
        top: value at the upper edge; None takes the highest value.
    """
    columns = resampled(values, width)
    highest = top or max((value for value in columns if value is not None), default=0.0) or 1.0
    heights = [None if value is None else value / highest * height for value in columns]
    return ["".join(_cell(value, line) for value in heights) for line in range(height - 1, -1, -1)]


def _cell(value: float | None, line: int) -> str:
    if value is None:
        return " "
    if line == 0 and value < 0.125:
        return LEVELS[1] if value > 0 else "_"
    return LEVELS[math.ceil(min(max(value - line, 0.0), 1.0) * 8)]
