"""Draws the prefill tab: the queue, where prompts are prefilled and why, and transfers. Pure."""

from __future__ import annotations

from rich.text import Text

from dynamo_cli.dashboard import format as show
from dynamo_cli.dashboard.draw.style import ACCENT, FAINT, STRONG, WARN, bar_cells, clipped
from dynamo_cli.dashboard.draw.trends import Curve
from dynamo_cli.dashboard.model import Board
from dynamo_cli.watch.schema import PrefillView

CURVES = (
    Curve("queue depth, jobs", lambda one: one.depth_jobs),
    Curve("oldest job", lambda one: one.oldest_age_s, show.seconds),
)
CURVES_OF_WORKERS = (
    Curve("prompt tok/s", lambda one: one.prompt_tokens_per_s),
    Curve("TTFT p95", lambda one: one.ttft_p95_s, show.seconds),
)
"""Curves without prefill workers."""

LABEL = 12


def draw(board: Board, width: int) -> Text:
    """Draw the current queue, and totals since the start."""
    prefill = board.snapshot.prefill if board.snapshot else None
    if prefill is None:
        return Text(
            "There are no prefill workers: every worker prefills its own prompts.\n"
            "Start with --prefill-workers 1 --conditional-disagg to send long prompts away.",
            FAINT,
        )
    lines = [_queue(prefill), _times(prefill), Text(""), *_split(prefill, bar_cells(width))]
    lines += [Text(""), *_transfers(prefill)]
    return Text("\n").join([clipped(line, width) for line in lines])


def _queue(prefill: PrefillView) -> Text:
    oldest = Text(show.seconds(prefill.oldest_age_s), WARN if prefill.alarm else STRONG)
    if prefill.alarm:
        oldest.append(" ⚠ too long")
    return Text.assemble(
        ("queue".ljust(LABEL), FAINT),
        (show.number(prefill.depth_jobs), STRONG),
        f" jobs wait ({show.number(prefill.depth_tokens)} tokens), oldest ",
        oldest,
        f", {show.number(prefill.in_flight_jobs)} in work, {show.number(prefill.taken)} taken",
    )


def _times(prefill: PrefillView) -> Text:
    waits = show.two_times(prefill.queue_time_p50_s, prefill.queue_time_p95_s)
    works = show.two_times(prefill.prefill_time_p50_s, prefill.prefill_time_p95_s)
    return _line("times", f"in the queue {waits}, prefill {works} (p50/p95, last minute)")


def _split(prefill: PrefillView, cells: int) -> list[Text]:
    """Draw the shares of remote and local prefills with their reasons."""
    total = sum(prefill.placements.values())
    lines = [Text(f"{'prefilled':<{LABEL}}{'share':<{cells + 8}} why", FAINT)]
    for where in ("remote", "local"):
        reasons = {
            name.partition(":")[2]: count
            for name, count in prefill.placements.items()
            if name.startswith(f"{where}:")
        }
        share = sum(reasons.values()) / total if total else 0.0
        lines.append(
            Text.assemble(
                f"{where:<{LABEL}}",
                (show.bar(share, cells), ACCENT),
                f" {show.percent(share) if total else show.NONE:>6}  ",
                _counts(reasons),
            )
        )
    if prefill.fallbacks:
        lines.append(_line("fallbacks", _counts(prefill.fallbacks)))
    return lines


def _transfers(prefill: PrefillView) -> list[Text]:
    lines = []
    for direction in sorted(prefill.copies, reverse=True):
        size, spent = prefill.nbytes.get(direction, 0), prefill.copy_s.get(direction, 0.0)
        speed = f", {show.size(size / spent)}/s" if spent and size else ""
        total = f", {show.size(size)}{speed}" if size else ""
        lines.append(_line(direction, f"{show.number(prefill.copies[direction])} copies{total}"))
    if prefill.failures:
        lines.append(_line("failures", _counts(prefill.failures)))
    return lines or [_line("transfers", "none yet")]


def _counts(counts: dict[str, int]) -> str:
    ordered = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    return ", ".join(f"{name} {show.number(count)}" for name, count in ordered) or show.NONE


def _line(name: str, value: str) -> Text:
    return Text.assemble((name.ljust(LABEL), FAINT), value)
