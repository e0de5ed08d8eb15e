"""Defines the tables of the dashboard: workers, processes, decisions, logs. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
from rich.text import Text

from dynamo_cli.dashboard import format as show
from dynamo_cli.dashboard.draw.style import (
    ACCENT,
    BAD,
    FAINT,
    GOOD,
    LEVELS,
    MOVED_GLYPH,
    STRONG,
    WARN,
    glyph,
    phase_style,
)
from dynamo_cli.dashboard.draw.table import Column, Spec
from dynamo_cli.dashboard.model import Board, Row
from dynamo_cli.messages.lifecycle import Phase
from dynamo_cli.topology import ProcessId, Role
from dynamo_cli.watch.decisions import DecisionView
from dynamo_cli.watch.logs import LogView
from dynamo_cli.watch.schema import ProcessView, WorkerView

KV_BAR = 5
HIGH_USE = 0.9


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker's engine and its process."""

    view: WorkerView
    process: ProcessView | None

    @property
    def name(self) -> str:
        """Name of the process."""
        return ProcessId(Role.WORKER, self.view.worker).name


def workers_of(board: Board) -> list[Worker]:
    """Return the rows of the table of workers."""
    processes = {process.name: process for process in processes_of(board)}
    views = board.snapshot.workers if board.snapshot else []
    rows = [Worker(view, None) for view in views]
    return [Worker(row.view, processes.get(row.name)) for row in rows]


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


# -- workers ---------------------------------------------------------------------------------


def _worker_name(row: Worker) -> Text:
    if row.process is None:
        return Text(f"? {row.view.worker}", FAINT)
    phase = row.process.phase
    return Text(f"{glyph(phase)} {row.view.worker}", phase_style(phase))


def _worker_state(row: Worker) -> Text:
    phase = row.process.phase if row.process else Phase.STOPPED
    return Text(str(phase), phase_style(phase))


def _restarts(process: ProcessView | None) -> Text:
    count = process.restarts if process else 0
    return Text(str(count), WARN if count else FAINT)


def _kv(row: Worker) -> Text:
    usage = row.view.kv_cache_usage
    style = WARN if usage >= HIGH_USE else ACCENT
    return Text.assemble((show.bar(usage, KV_BAR), style), f"{show.percent(usage):>6}")


def _ttft(row: Worker) -> str:
    view = row.view
    if view.ttft_p50_s is None:
        return show.NONE
    return f"{show.milliseconds(view.ttft_p50_s)}/{show.milliseconds(view.ttft_p95_s)}"


WORKERS: Spec[Worker] = Spec(
    columns=(
        Column("", 4, _worker_name, lambda row: row.view.worker),
        Column("state", 15, _worker_state, lambda row: str(_worker_state(row)), from_width=100),
        Column("↻", 2, lambda row: _restarts(row.process), right=True),
        Column(
            *("run", 4, lambda row: show.number(row.view.num_running_reqs)),
            lambda row: row.view.num_running_reqs,
            right=True,
        ),
        Column(
            *("wait", 4, lambda row: show.number(row.view.num_waiting_reqs)),
            lambda row: row.view.num_waiting_reqs,
            right=True,
        ),
        Column("KV use", 11, _kv, lambda row: row.view.kv_cache_usage),
        Column(
            *("hit", 5, lambda row: show.percent(row.view.recent_hit_ratio)),
            lambda row: row.view.recent_hit_ratio or 0.0,
            right=True,
        ),
        Column(
            *("in/s", 5, lambda row: show.number(round(row.view.prompt_tokens_per_s))),
            lambda row: row.view.prompt_tokens_per_s,
            right=True,
        ),
        Column(
            *("out/s", 5, lambda row: show.number(round(row.view.output_tokens_per_s))),
            lambda row: row.view.output_tokens_per_s,
            right=True,
        ),
        Column("TTFT ms", 9, _ttft, lambda row: row.view.ttft_p95_s or 0.0, right=True),
        Column(
            "ITL",
            4,
            lambda row: show.milliseconds(row.view.itl_p95_s),
            lambda row: row.view.itl_p95_s or 0.0,
            right=True,
        ),
        Column(
            *("memory", 8, lambda row: show.size(row.process.rss_bytes if row.process else 0)),
            lambda row: row.process.rss_bytes if row.process else 0,
            right=True,
        ),
        Column("device", 6, lambda row: row.process.device if row.process else "", stretch=True),
    ),
    key=lambda row: row.name,
    words=lambda row: (
        f"{row.name} {_worker_state(row)} {row.process.device if row.process else ''}"
    ),
    copied=lambda row: str(row.view),
    tail=False,
    empty="no worker is known yet",
)

# -- processes -------------------------------------------------------------------------------


def _phase(process: ProcessView) -> Text:
    return Text(f"{glyph(process.phase)} {process.phase}", phase_style(process.phase))


def _reason(process: ProcessView) -> Text:
    return Text("" if process.phase == Phase.READY else process.reason, FAINT)


PROCESSES: Spec[ProcessView] = Spec(
    columns=(
        Column("process", 16, lambda one: one.name, lambda one: one.name),
        Column("phase", 17, _phase, lambda one: one.phase),
        Column(
            *("since", 6, lambda one: show.duration(one.phase_s)),
            lambda one: one.phase_s,
            right=True,
        ),
        Column("↻", 2, _restarts, lambda one: one.restarts, right=True),
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
    copied=str,
    tail=False,
    empty="no process is known yet",
)

# -- decisions -------------------------------------------------------------------------------


def _overlap(row: Row) -> Text:
    """Draw a small bar for each worker: the share of the prompt that it holds. The winner's bar is
    bright."""
    decision = row.decision
    bars = Text()
    for candidate in sorted(decision.candidates, key=lambda one: one.worker):
        held = candidate.overlap_blocks / max(decision.required_blocks, 1)
        won = candidate.worker == decision.worker
        bars.append(show.level(held), f"{STRONG} {GOOD}" if won else FAINT)
    return bars


def _costs(row: Row) -> Text:
    """Draw the costs in the order of the workers. The winner's cost is bright."""
    decision = row.decision
    costs = Text()
    for candidate in sorted(decision.candidates, key=lambda one: one.worker):
        won = candidate.worker == decision.worker
        costs.append(cost(candidate.cost), f"{STRONG} {GOOD}" if won else "")
        costs.append(" ")
    costs.rstrip()
    return costs


def cost(value: float) -> str:
    """Format a cost, whose unit depends on the policy."""
    return f"{value:.2f}" if abs(value) < 9.995 and value != int(value) else show.number(value)


def winner(decision: DecisionView) -> Text:
    """Draw the chosen worker, with another sign if the request had to leave one before."""
    if decision.worker is None:
        return Text(show.NONE, BAD)
    if decision.moved:
        return Text(f"{MOVED_GLYPH} {decision.worker}", WARN)
    return Text(f"→ {decision.worker}", GOOD)


def _moved_words(decision: DecisionView) -> str:
    return f"moved {decision.moved}" if decision.moved else ""


def _won(row: Row) -> int:
    """Sort key of the chosen worker: rows without one come before the first worker."""
    return -1 if row.decision.worker is None else row.decision.worker


def _cached(row: Row) -> Text:
    """Draw predicted and measured tokens, with a sign if fewer were measured than predicted."""
    decision = row.decision
    predicted, measured = decision.predicted_tokens, decision.measured_tokens
    text = Text(f"{show.number(predicted)}/{show.number(measured)}")
    if measured is not None and measured < predicted:
        text = Text.assemble(("↓", WARN), text)
    return text


DECISIONS: Spec[Row] = Spec(
    columns=(
        Column("time", 8, lambda row: Text(show.clock(row.at_s), FAINT)),
        Column("request", 9, lambda row: row.decision.request_id, stretch=True, most=38),
        Column(
            *("prompt", 6, lambda row: show.number(row.decision.prompt_tokens)),
            lambda row: row.decision.prompt_tokens,
            right=True,
        ),
        Column("overlap", 8, _overlap, lambda row: row.decision.overlap_blocks),
        Column("cost", 11, _costs, stretch=True, most=40),
        Column("won", 4, lambda row: winner(row.decision), _won),
        Column(
            *("margin", 6, lambda row: cost(row.decision.margin)),
            lambda row: row.decision.margin,
            right=True,
        ),
        Column("why", 7, lambda row: row.decision.reason, lambda row: row.decision.reason),
        Column(
            *("cached", 9, _cached),
            lambda row: row.decision.measured_tokens or 0,
            right=True,
        ),
        Column(
            *("took", 7, lambda row: show.micros(row.decision.decision_us)),
            lambda row: row.decision.decision_us,
            right=True,
            from_width=100,
        ),
        Column("session", 12, lambda row: row.decision.session, from_width=120),
    ),
    key=lambda row: row.key,
    words=lambda row: (
        f"{row.decision.request_id} {row.decision.session} {row.decision.reason} "
        f"worker {row.decision.worker} {_moved_words(row.decision)}"
    ),
    copied=lambda row: row.decision.request_id,
    tail=True,
    empty="no request was routed yet",
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
)
