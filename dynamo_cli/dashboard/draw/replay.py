"""Draws what the router's policies would have done to the last hour of this server. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from rich.text import Text

from dynamo_cli.dashboard import format as show
from dynamo_cli.dashboard.draw.style import ACCENT, BAD, FAINT, GOOD, STRONG, WARN
from dynamo_cli.dashboard.experiment import Experiment, PolicyResult, ReplayStage, Report
from dynamo_cli.dashboard.model import Board
from dynamo_cli.watch.schema import Snapshot

SKEW, PREEMPTIONS = "load skew", "preemptions"
NAME, CELL = 22, 9
BEST = "★"
WIDE = 96
"""From this width on, the table has all columns."""

HEADS = ("hit rate", "TTFT mean", "p50", "p99", "E2E mean", "p99", "skew", "preempted")
NARROW = (0, 1, 2, 3, 4)
"""Places of the columns that a narrow table has."""


def draw(board: Board, width: int) -> Text:
    """Draw the experiment: how to start it, how far it is, or what it found."""
    one = board.experiment
    lines = [Text("What would other router policies have done to the last hour?", STRONG), Text("")]
    match one.stage:
        case ReplayStage.IDLE | ReplayStage.STOPPED:
            lines += _idle(board.snapshot, one)
        case ReplayStage.FAILED:
            lines += [Text(f"✗ {one.problem}", BAD), Text("r tries again", FAINT)]
        case ReplayStage.DONE:
            lines += _found(one, width)
        case _:
            lines += _under_way(one, board.now_s)
    return Text("\n").join(lines)


def _idle(snapshot: Snapshot | None, one: Experiment) -> list[Text]:
    if snapshot is None:
        return [Text("nothing is known of the server yet", FAINT)]
    if snapshot.recorded_requests is None:
        return [
            Text("This server records no requests, so there is nothing to replay.", WARN),
            Text("Start it with --record FILE: it writes lengths and hashes, never text.", FAINT),
        ]
    stopped = [Text("stopped", WARN)] if one.stage is ReplayStage.STOPPED else []
    return [
        *stopped,
        Text.assemble(
            f"{show.number(snapshot.recorded_requests)} requests were recorded since the start. ",
            ("r", STRONG),
            " replays those of the last hour.",
        ),
        Text(
            "It runs beside this dashboard, in one process of the lowest priority (nice 19), with "
            "the policies used for serving and simulated engines. The server keeps serving."
        ),
    ]


def _under_way(one: Experiment, now_s: float) -> list[Text]:
    doing = "reads the record" if one.stage is ReplayStage.READING else "replays"
    lines = [
        Text.assemble(
            ("○ ", WARN),
            f"{doing} … {show.duration(max(now_s - one.began_s, 0))}   ",
            ("r", STRONG),
            (" stops it", FAINT),
        )
    ]
    return [*lines, *_what(one)]


def _what(one: Experiment) -> list[Text]:
    """Draw which requests are replayed, and with which engines."""
    found = one.recorded
    if found is None:
        return []
    requests = f"{found.run.requests:,} requests over {show.duration(found.span_s)}"
    return [
        Text.assemble(("requests  ", FAINT), requests),
        *([Text.assemble(("engines   ", FAINT), one.report.engines)] if one.report else []),
    ]


def _found(one: Experiment, width: int) -> list[Text]:
    report = one.report
    assert report is not None
    lines = [*_what(one), Text(""), _head(width)]
    best = _best(report)
    for name, run in sorted(report.runs.items(), key=lambda pair: _ttft(pair[1])):
        mark = f"{BEST} " if name == best else "  "
        served = " (served)" if name == one.served else ""
        style = GOOD if name == best else ""
        lines.append(_row(f"{mark}{name}{served}", run, width, style))
    if one.recorded is not None:
        lines.append(_row("  measured here", one.recorded.run, width, FAINT))
    lines += ["", Text(report.verdict, f"{STRONG} {ACCENT}"), "", *_notes(one)]  # type: ignore[list-item]
    return [Text(line) if isinstance(line, str) else line for line in lines]


def _notes(one: Experiment) -> list[Text]:
    return [
        Text(
            "Compare the policies with each other. The times are those of simulated engines; the "
            "last row is what this server measured.",
            FAINT,
        ),
        Text(f"It took {show.duration(one.took_s)}; r replays again.", FAINT),
    ]


def _best(report: Report) -> str:
    return min(report.runs, key=lambda name: _ttft(report.runs[name]), default="")


def _ttft(run: PolicyResult) -> float:
    return run.ttft_ms.mean if run.ttft_ms is not None else float("inf")


def _places(width: int) -> tuple[int, ...]:
    return tuple(range(len(HEADS))) if width >= WIDE else NARROW


def _head(width: int) -> Text:
    cells = (f"{HEADS[place]:>{CELL}}" for place in _places(width))
    return Text(f"{'  policy':<{NAME}}" + " ".join(cells), STRONG)


def _row(name: str, run: PolicyResult, width: int, style: str) -> Text:
    cells = _cells(run, run.more)
    shown = (f"{cells[place]:>{CELL}}" for place in _places(width))
    return Text(f"{name:<{NAME}}" + " ".join(shown), style)


def _cells(run: PolicyResult, more: Mapping[str, float]) -> tuple[str, ...]:
    ttft, e2e = run.ttft_ms, run.e2e_ms
    times = (
        *((ttft.mean, ttft.p50, ttft.p99) if ttft else (None, None, None)),
        *((e2e.mean, e2e.p99) if e2e else (None, None)),
    )
    return (
        show.percent(run.hit_ratio),
        *(show.seconds(None if ms is None else ms / 1000) for ms in times),
        f"{more[SKEW]:.2f}" if SKEW in more else show.NONE,
        show.number(more.get(PREEMPTIONS)),
    )
