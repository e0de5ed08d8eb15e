"""Defines the tables of processes and of log lines. Pure."""

from __future__ import annotations

import msgspec
from rich.text import Text

from dynamo_cli.dashboard import format as show
from dynamo_cli.dashboard.draw.style import ACCENT, FAINT, LEVELS, WARN, phase_mark
from dynamo_cli.dashboard.draw.table import Column, Spec
from dynamo_cli.dashboard.model import Board
from dynamo_cli.messages.lifecycle import Phase
from dynamo_cli.watch.logs import LogView
from dynamo_cli.watch.schema import ProcessView


def processes_of(board: Board) -> list[ProcessView]:
    """Return the rows of the table of processes.

    Their times are whole seconds, so that a row changes at most once a second.
    """
    return [
        msgspec.structs.replace(
            process, phase_s=float(int(process.phase_s)), uptime_s=float(int(process.uptime_s))
        )
        for process in board.processes
    ]


def restarts(process: ProcessView | None) -> Text:
    """Draw the number of restarts of a process; a warning if there were any."""
    count = process.restarts if process else 0
    return Text(str(count), WARN if count else FAINT)


def _reason(process: ProcessView) -> Text:
    return Text("" if process.phase == Phase.READY else process.reason, FAINT)


PROCESSES: Spec[ProcessView] = Spec(
    columns=(
        Column("process", 16, lambda one: one.name, lambda one: one.name),
        Column("phase", 17, lambda one: phase_mark(one.phase), lambda one: one.phase),
        Column(
            *("since", 6, lambda one: show.duration(one.phase_s)),
            lambda one: one.phase_s,
            right=True,
        ),
        Column("↻", 2, restarts, lambda one: one.restarts, right=True),
        Column("pid", 7, lambda one: str(one.pid or show.NONE), lambda one: one.pid, right=True),
        Column(
            *("memory", 8, lambda one: show.size(one.rss_bytes)),
            lambda one: one.rss_bytes,
            right=True,
        ),
        Column("device", 6, lambda one: one.device, lambda one: one.device),
        Column("", 6, _reason, stretch=True),
    ),
    key=lambda one: one.name,
    words=lambda one: f"{one.name} {one.phase} {one.device} {one.reason}",
    copied=lambda one: msgspec.json.encode(one).decode(),
    tail=False,
    empty="no process is known yet",
    fields={
        "process": lambda one: one.name,
        "phase": lambda one: one.phase,
        "since": lambda one: one.phase_s,
        "restarts": lambda one: one.restarts,
        "pid": lambda one: one.pid,
        "memory": lambda one: one.rss_bytes,
        "device": lambda one: one.device,
    },
)

# -- logs ------------------------------------------------------------------------------------

LOGS: Spec[LogView] = Spec(
    columns=(
        Column("time", 8, lambda line: Text(show.clock(line.time_s), FAINT)),
        Column("level", 8, lambda line: Text(line.level, LEVELS.get(line.level, ""))),
        Column("process", 16, lambda line: Text(line.name, ACCENT)),
        Column("line", 20, lambda line: Text(line.text), stretch=True),
    ),
    key=lambda line: str(line.number),
    words=lambda line: f"{line.name} {line.level} {line.text}",
    copied=lambda line: line.text,
    tail=True,
    empty="nothing was logged yet",
    fields={"level": lambda line: line.level, "process": lambda line: line.name},
)
