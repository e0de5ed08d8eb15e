"""Draws the results of a replay: hit rate by load, and times to the first token at each load."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dynamo_cli.errors import UsageError
from dynamo_cli.lab.report import Outcome, hit_ratio

FORMATS = (".svg", ".png")
LINES = ("-", "--", "-.", ":")
POINTS = 400
"""Points of a curve; more cannot be seen."""

Times = Mapping[str, Sequence[Outcome]]
"""Outcomes by policy."""


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


def draw(path: Path, title: str, speeds: Sequence[float], loads: Sequence[Times]) -> None:
    """Write the picture, after `check`.

    Args:
        path: file to write; its ending is the format.
        title: title of the picture.
        speeds: the loads.
        loads: outcomes by policy, for each load.
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


def _hit_rates(panel: Any, speeds: Sequence[float], loads: Sequence[Times]) -> None:
    for place, name in enumerate(loads[0]):
        answered = ([one for one in load[name] if not one.error] for load in loads)
        shares = [100 * (hit_ratio(done) or 0.0) for done in answered]
        panel.plot(speeds, shares, LINES[place % len(LINES)], marker="o", label=name)
    panel.set(xlabel="speed of the trace", ylabel="hit rate, %", ylim=(0, None))
    panel.grid(alpha=0.3)


def _first_tokens(panel: Any, speed: float, load: Times) -> None:
    for place, (name, outcomes) in enumerate(load.items()):
        times = sorted(outcome.ttft_s for outcome in outcomes if not outcome.error)
        seen = [len(times) * point // POINTS for point in range(POINTS)] if times else []
        shares = [100 * (index + 1) / len(times) for index in seen]
        line = LINES[place % len(LINES)]
        panel.plot([times[index] for index in seen], shares, line, label=name)
    panel.set(xscale="log", xlabel=f"TTFT at speed {speed:g}, s", ylabel="requests, %")
    panel.grid(alpha=0.3)
