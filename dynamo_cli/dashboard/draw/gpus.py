"""The table of the GPUs that engines run on. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from rich.text import Text

from dynamo_cli.dashboard import format as show
from dynamo_cli.dashboard.draw.style import ACCENT, BAD, FAINT, WARN
from dynamo_cli.dashboard.draw.table import Column, Spec
from dynamo_cli.dashboard.model import Board
from dynamo_cli.watch.schema import GpuView

USE_BAR = 5
HOT_C = 85
"""Temperature at which GPUs begin to throttle, approximately."""


def gpus_of(board: Board) -> Sequence[GpuView]:
    """Return the rows of the table; there are none on a CPU."""
    return board.snapshot.gpus if board.snapshot else []


def _use(gpu: GpuView) -> Text:
    use = gpu.utilization
    if use is None:
        return Text(f"{show.NONE:>{USE_BAR + 6}}", FAINT)
    return Text.assemble((show.bar(use, USE_BAR), ACCENT), f"{show.percent(use):>6}")


def _memory(gpu: GpuView) -> str:
    """``71/80 GiB``."""
    if gpu.memory_used_bytes is None or not gpu.memory_total_bytes:
        return show.NONE
    used, total = (value / (1 << 30) for value in (gpu.memory_used_bytes, gpu.memory_total_bytes))
    return f"{show.number(round(used, 1))}/{show.number(round(total))} GiB"


def power(gpu: GpuView) -> str:
    """Format the power of a GPU and its limit: ``412/700 W``."""
    if gpu.power_watts is None:
        return show.NONE
    limit = f"/{gpu.power_limit_watts:.0f}" if gpu.power_limit_watts is not None else ""
    return f"{gpu.power_watts:.0f}{limit} W"


def temperature(gpu: GpuView) -> Text:
    """Draw the temperature of a GPU; a warning from `HOT_C` on."""
    degrees = gpu.temperature_c
    if degrees is None:
        return Text(show.NONE)
    return Text(f"{degrees} °C", WARN if degrees >= HOT_C else "")


def _errors(gpu: GpuView) -> Text:
    """Draw the errors that the driver reports, and uncorrected memory errors."""
    said = [f"{count} × Xid {xid}" for xid, count in gpu.xids.items()]
    if gpu.uncorrected_ecc_errors:
        said.append(f"{gpu.uncorrected_ecc_errors} × memory")
    if gpu.problem:
        said.append(gpu.problem)
    return Text(", ".join(said), BAD)


def use(own: Sequence[GpuView]) -> float | None:
    """Return the mean utilization of GPUs; None if no driver reports it."""
    known = [gpu.utilization for gpu in own if gpu.utilization is not None]
    return fmean(known) if known else None


def memory(own: Sequence[GpuView], engine: str) -> int | None:
    """Return the GPU memory of an engine; of all processes on its GPUs if the driver does not tell
    them apart; None if nothing is known."""
    known = [gpu.engine_bytes.get(engine, gpu.memory_used_bytes) for gpu in own]
    return sum(one or 0 for one in known) if any(known) else None


def watts(own: Sequence[GpuView]) -> str:
    """Format the power of GPUs together."""
    known = [gpu.power_watts for gpu in own if gpu.power_watts is not None]
    return f"{sum(known):.0f} W" if known else show.NONE


def hottest(own: Sequence[GpuView]) -> Text:
    """Draw the temperature of the hottest GPU."""
    known = [gpu for gpu in own if gpu.temperature_c is not None]
    found = max(known, key=lambda gpu: gpu.temperature_c or 0, default=None)
    return temperature(found) if found is not None else Text(show.NONE)


GPUS: Spec[GpuView] = Spec(
    columns=(
        Column("gpu", 4, lambda gpu: gpu.gpu),
        Column("use", 11, _use, lambda gpu: gpu.utilization or 0.0),
        Column("memory", 13, _memory, lambda gpu: gpu.memory_used_bytes or 0, right=True),
        Column("power", 9, power, lambda gpu: gpu.power_watts or 0.0, right=True),
        Column("temp", 6, temperature, lambda gpu: gpu.temperature_c or 0, right=True),
        Column("engines", 12, lambda gpu: ", ".join(gpu.engines), stretch=True, most=40),
        Column("errors", 10, _errors, stretch=True),
        Column("product", 24, lambda gpu: Text(gpu.product, FAINT), from_width=110),
    ),
    key=lambda gpu: gpu.gpu,
    words=lambda gpu: f"gpu {gpu.gpu} {gpu.product} {' '.join(gpu.engines)}",
    copied=lambda gpu: gpu.uuid,
    tail=False,
    empty="no engine has a GPU",
    fields={
        "gpu": lambda gpu: gpu.gpu,
        "use": lambda gpu: gpu.utilization,
        "power": lambda gpu: gpu.power_watts,
        "temp": lambda gpu: gpu.temperature_c,
        "memory": lambda gpu: gpu.memory_used_bytes,
    },
)
