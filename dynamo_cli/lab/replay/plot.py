"""Draws the results of a replay: hit rate by load, and times to the first token at each load."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dynamo_cli.errors import UsageError
from dynamo_cli.lab.report import Outcome, hit_ratio

FORMATS = (".svg", ".png")
LINES = ("-", "--", "-.", ":")
POINTS = 400
"""Points of a curve; more cannot be seen."""


class TtftDistribution(NamedTuple):
    """What is drawn of one policy at one load.

    Attributes:
        hit_ratio: cached tokens / prompt tokens.
        points: times to the first token in seconds, each with the per cent of requests that are
            not slower.
    """

    hit_ratio: float
    points: list[tuple[float, float]]


Curves = Mapping[str, TtftDistribution]
"""Curves by policy."""


def curve(outcomes: Sequence[Outcome]) -> TtftDistribution:
    """Return the curve of a replay."""
    done = [one for one in outcomes if not one.error]
    times = sorted(one.ttft_s for one in done)
    seen = sorted({len(times) * point // POINTS for point in range(POINTS)}) if times else []
    points = [(times[index], 100 * (index + 1) / len(times)) for index in seen]
    return TtftDistribution(hit_ratio(done) or 0.0, points)


def check(path: Path) -> None:
    """Check that a picture can be written, before the replay takes its time.

    Raises:
        UsageError: matplotlib or the folder is missing, or the name has another ending.
    """
    if path.suffix not in FORMATS:
        raise UsageError(f"--plot writes {' or '.join(FORMATS)}, not {path.name!r}.")
    if not path.parent.is_dir():
        raise UsageError(f"--plot: there is no folder {path.parent}.")
    try:
        import matplotlib  # noqa: F401, PLC0415 - optional
    except ImportError as error:
        raise UsageError(
            "--plot needs matplotlib: pip install 'dynamo-llm[plot]', or pip install matplotlib."
        ) from error


def draw(path: Path, title: str, speeds: Sequence[float], loads: Sequence[Curves]) -> None:
    """Write the picture, after `check`.

    Args:
        path: file to write; its ending is the format.
        title: title of the picture.
        speeds: the loads.
        loads: curves by policy, for each load.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415 - optional

    figure = Figure(figsize=(4.2 * (len(loads) + 1), 3.6), layout="constrained")
    panels = figure.subplots(1, len(loads) + 1, squeeze=False)[0]
    figure.suptitle(title)
    _hit_rates(panels[0], speeds, loads)
    for panel, speed, load in zip(panels[1:], speeds, loads, strict=True):
        _first_tokens(panel, speed, load)
    names = panels[0].get_legend_handles_labels()
    figure.legend(*names, loc="outside lower center", ncols=len(loads[0]), fontsize="small")
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def _hit_rates(panel: Any, speeds: Sequence[float], loads: Sequence[Curves]) -> None:
    for place, name in enumerate(loads[0]):
        shares = [100 * load[name].hit_ratio for load in loads]
        panel.plot(speeds, shares, LINES[place % len(LINES)], marker="o", label=name)
    panel.set(xlabel="speed of the trace", ylabel="hit rate, %", ylim=(0, None))
    panel.grid(alpha=0.3)


def _first_tokens(panel: Any, speed: float, load: Curves) -> None:
    for place, (name, one) in enumerate(load.items()):
        line = LINES[place % len(LINES)]
        times, shares = [time for time, _ in one.points], [share for _, share in one.points]
        panel.plot(times, shares, line, label=name)
    panel.set(xscale="log", xlabel=f"TTFT at speed {speed:g}, s", ylabel="requests, %")
    panel.grid(alpha=0.3)
