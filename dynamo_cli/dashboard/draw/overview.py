"""Draws the header, what needs attention, and the progress of the start. Pure."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from rich.text import Text

from dynamo_cli.dashboard import format as show
from dynamo_cli.dashboard.draw.style import (
    BAD,
    FAINT,
    GOOD,
    MOVED_GLYPH,
    STRONG,
    WARN,
    clipped,
    fitting,
    glyph,
    joined,
    phase_style,
)
from dynamo_cli.dashboard.events import State
from dynamo_cli.dashboard.model import Board
from dynamo_cli.messages.lifecycle import Phase
from dynamo_cli.watch.load_schema import ErrorsView
from dynamo_cli.watch.schema import AlarmView, MovesView, ProcessView, Snapshot

MORE = "a shows all of it, with what to do"


def header(board: Board, width: int, *, paused: bool) -> Text:
    """Draw the two lines at the top of every screen: name and state of the server, and its
    traffic."""
    traffic = _what(board.snapshot, width)
    if board.stale_since_s is not None:
        traffic = Text(traffic.plain, FAINT)
    return Text("\n").join([_who(board, width, paused=paused), traffic])


def _who(board: Board, width: int, *, paused: bool) -> Text:
    snapshot = board.snapshot
    url = (snapshot.url if snapshot else "") or board.link.url
    right = Text("‖ paused", WARN) if paused else _alarm_count(snapshot)
    room = width - right.cell_len - 1
    name, state = Text("dynamo-llm", STRONG), _state(board, since=True)
    models = Text(", ".join(snapshot.models), "cyan") if snapshot else Text("")
    up = Text(f"up {show.duration(snapshot.uptime_s)}", FAINT) if snapshot else ""
    left = fitting(
        room,
        [name, models, state, url, up],
        [name, models, state, url],
        [name, models, state],
        [clipped(models, room - state.cell_len - 1), state],
        [_state(board, since=False)],
    )
    return Text.assemble(left, " " * (width - left.cell_len - right.cell_len), right)


def _state(board: Board, *, since: bool) -> Text:
    """Draw the state of the server; with `since` also since when nothing is known."""
    stale_s = board.stale_since_s
    when = f" since {show.clock(stale_s)}" if since and stale_s is not None else ""
    if board.link.state is State.LOST:
        return Text(f"✗ no connection{when}", BAD)
    if stale_s is not None:
        return Text(f"✗ no news{when}", BAD)
    snapshot = board.snapshot
    if snapshot is None:
        return Text("○ starting" if board.processes else "○ connecting", WARN)
    if not snapshot.serving:
        return Text("○ starting" if board.starting else f"✗ {snapshot.reason}", WARN)
    whole = all(process.phase == Phase.READY for process in snapshot.processes)
    return Text("● serving", GOOD) if whole else Text("◐ degraded", WARN)


def _alarm_count(snapshot: Snapshot | None) -> Text:
    count = len(snapshot.alarms) if snapshot else 0
    return Text(f"⚠ {count} alarm{'s' if count > 1 else ''}", WARN) if count else Text("")


def _what(snapshot: Snapshot | None, width: int) -> Text:
    if snapshot is None:
        return Text("")
    traffic = snapshot.traffic
    requests = [
        _figure(show.number(round(traffic.requests_per_s, 1)), "req/s"),
        _figure(show.number(traffic.in_flight), "in flight"),
        _waiting(snapshot),
        _error_count(snapshot),
    ]
    prompts = show.number(round(traffic.prompt_tokens_per_s))
    output = _figure(show.number(round(traffic.output_tokens_per_s)), "tok/s")
    both = Text.assemble((prompts, STRONG), ("→", FAINT), output)
    times = [
        _times("TTFT", traffic.ttft_p50_s, traffic.ttft_p95_s),
        _times("ITL", traffic.itl_p50_s, traffic.itl_p95_s),
    ]
    return fitting(width, [*requests, both, *times], [*requests, output, *times])


def _waiting(snapshot: Snapshot) -> Text:
    waiting = snapshot.queues.waiting
    return Text(f"{show.number(waiting)} waiting", WARN) if waiting else Text("")


def _error_count(snapshot: Snapshot) -> Text:
    """Draw the errors of the last minute that the server has to do with."""
    count = snapshot.recent_errors.of_server
    return Text(f"{show.number(count)} errors/min", BAD) if count else Text("")


def _figure(value: str, unit: str) -> Text:
    return Text.assemble((value, STRONG), " ", (unit, FAINT))


def _times(name: str, middle: float | None, high: float | None) -> Text:
    """Draw a median and a 95th percentile."""
    return Text.assemble((f"{name} ", FAINT), (show.two_times(middle, high), STRONG))


def attention(board: Board) -> Text:
    """Draw alarms with their advice, and remarks on workers that differ from the others."""
    lines = []
    if board.link.state is State.LOST:
        lines.append(Text.assemble(("✗ ", BAD), (board.link.reason, BAD)))
    if board.stale_since_s is not None:
        lines.append(Text(f"✗ what is shown is from {show.clock(board.stale_since_s)}", BAD))
    lines += _alarms(board.snapshot.alarms if board.snapshot else [])
    lines += [Text.assemble(("◆ ", WARN), odd) for odd in board.odd]
    if board.snapshot is not None and board.snapshot.recent_errors.all:
        lines.append(_errors(board.snapshot.recent_errors))
    if not lines and not board.starting:
        lines.append(Text("● nothing needs attention", GOOD))
    if board.snapshot is not None and (left := board.snapshot.recent_errors.left):
        requests = show.number(board.snapshot.recent_errors.requests)
        whose = f"the clients of {show.number(left)} of {requests} requests left in the last minute"
        lines.append(Text(f"· {whose}, before the answer ended", FAINT))
    if board.snapshot is not None and (told := moved(board.snapshot.moves)):
        lines.append(Text.assemble((f"{MOVED_GLYPH} ", WARN), told))
    return Text("\n").join(lines)


def within(text: Text, width: int, room: int) -> Text:
    """Return what needs attention in so many lines: as it is if it fits, else one line of each, and
    the key that shows all of it.

    Args:
        text: what `attention` has drawn.
        width: available cells.
        room: available lines.
    """
    lines = text.split("\n")
    needed = sum(len(textwrap.wrap(line.plain, max(width, 1))) for line in lines)
    if needed <= max(room, 1):
        return text
    kept = [clipped(line, width) for line in lines[: max(room - 1, 1)]]
    return Text("\n").join([*kept, clipped(Text(MORE, FAINT), width)])


def _errors(errors: ErrorsView) -> Text:
    """Draw what went wrong with the requests of the last minute, and whose turn it is."""
    wrong = "wrong request" if errors.mistaken == 1 else "wrong requests"
    counts = (
        (errors.failed, "failed", BAD),
        (errors.refused, "refused", WARN),
        (errors.mistaken, f"{wrong} of clients", ""),
    )
    told = joined(
        [Text(f"{show.number(count)} {what}", style) for count, what, style in counts if count],
        ", ",
    )
    kinds = ", ".join(f"{kind} {show.number(count)}" for kind, count in errors.kinds.items())
    sign = ("✗ ", BAD) if errors.failed else ("· ", WARN)
    return Text.assemble(
        sign,
        f"errors of the last minute, {show.number(errors.requests)} requests: ",
        told,
        (f" ({kinds})", FAINT),
    )


def times(snapshot: Snapshot | None, width: int) -> Text:
    """Draw how long the stages of the last requests took, in as many lines as are needed."""
    if snapshot is None or not snapshot.stages:
        return Text("")
    parts = [
        Text.assemble((f"{one.stage} ", FAINT), show.two_times(one.p50_s, one.p95_s))
        for one in snapshot.stages
    ]
    lines = [Text("stages:", FAINT)]
    for part in parts:
        if lines[-1].cell_len + 2 + part.cell_len > width:
            lines.append(Text("       "))
        lines[-1] = Text.assemble(lines[-1], "  ", part)
    return Text("\n").join(lines)


def moved(moves: MovesView) -> str:
    """Say how often requests moved to another process and why; empty if none did."""
    gap = moves.longest_gap_s
    parts = [
        _counted("moved", moves.moved),
        _counted("found no place", moves.not_moved),
        "" if gap is None else f"longest gap {show.seconds(gap)}",
    ]
    return ", ".join(part for part in parts if part)


def _counted(what: str, reasons: dict[str, int]) -> str:
    """Return ``moved: 12 (died 10, drained 2)``; empty if nothing was counted."""
    why = ", ".join(f"{reason} {count}" for reason, count in reasons.items() if count)
    return f"{what}: {sum(reasons.values())} ({why})" if why else ""


def _alarms(alarms: Sequence[AlarmView]) -> list[Text]:
    """Draw each alarm; advice that an alarm above has is not repeated."""
    whose: dict[str, str] = {}
    for alarm in alarms:
        whose.setdefault(alarm.advice, alarm.kind)
    return [_alarm(alarm, whose[alarm.advice]) for alarm in alarms]


def _alarm(alarm: AlarmView, adviser: str) -> Text:
    advice = alarm.advice if adviser == alarm.kind else f"as for {adviser}"
    return Text.assemble(
        ("⚠ ", WARN), (alarm.kind, f"bold {WARN}"), f": {alarm.text}. ", ("→ ", FAINT), advice
    )


def startup(board: Board, width: int) -> Text:
    """Draw every process with its phase, its seconds so far, and its last message."""
    if not board.processes:
        return Text(f"connecting to {board.link.url} …", FAINT)
    lines = [clipped(Text(f"{'process':<17}{'phase':<18}{'seconds':>7}", FAINT), width)]
    lines += [clipped(_starting(process), width) for process in board.processes]
    return Text("\n").join(lines)


def _starting(process: ProcessView) -> Text:
    ready = process.phase == Phase.READY
    seconds = process.uptime_s - process.phase_s if ready else process.uptime_s
    return Text.assemble(
        f"{process.name:<17}",
        (f"{glyph(process.phase)} {process.phase:<16}", phase_style(process.phase)),
        f"{seconds:>7.1f}  ",
        (process.reason, FAINT),
    )
