"""Options by which ``replay`` and ``bench --trace`` describe a trace."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dynamo_cli.cli import terminal
from dynamo_cli.cli.declare import option

if TYPE_CHECKING:
    from dynamo_cli.lab.trace.trace import Trace


def form(panel: str) -> Any:
    """The option ``--format``."""
    return option(
        "--format",
        panel=panel,
        help="Format of the trace. [b]auto[/b] recognizes it by its fields, or asks.",
    )


def time_unit(panel: str) -> Any:
    """The option ``--time-unit``."""
    return option(
        "--time-unit",
        panel=panel,
        help="Unit of the trace's timestamps. [dim]\\[default: its format's][/dim]",
    )


def tell(trace: Trace) -> None:
    """Say on standard error how the trace was read."""
    terminal.say(trace.note)
