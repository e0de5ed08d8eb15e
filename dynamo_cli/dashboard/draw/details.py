"""Draws a routing decision in full, and the timeline of a request. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from dynamo_cli.dashboard import format as show
from dynamo_cli.dashboard.draw.decisions import MS, WORDS, amount, cost, runner_up, unit, winner
from dynamo_cli.dashboard.draw.style import (
    ACCENT,
    FAINT,
    GOOD,
    MOVED_GLYPH,
    WARN,
    named,
    section,
)
from dynamo_cli.dashboard.model import DecisionRow
from dynamo_cli.watch.decisions import DecisionView
from dynamo_cli.watch.timelines import ENDED, RequestState, TimelineView

EARLIER = 8
LABEL = 10
TERM, LONG_TERM = 7, 8
"""Least width of the column of a term, and most characters in a line of its title."""

MANY_TERMS, WIDE_GAP, NARROW_GAP = 5, 2, 1
"""With more terms than this, columns have one cell between them instead of two."""

BAR = 20
MOVED_PLACE = 3
"""Line of a decision that says from where the request moved: below its worker."""

STAGES = {
    "arrival": "it came in",
    "received": "a processor had it",
    "prepared": "template, tokenizer done",
    "routed": "its worker was chosen",
    "sent": "handed to its worker",
    "pushed": "given to the prefill queue",
    "leased": "a prefill worker took it",
    "prefilled": "its blocks were there",
    "queued": "its engine queued it",
    "scheduled": "its engine began",
    "first_token": "first token",
    "first_byte": "first token was sent on",
    "last_token": "last token",
}
ENDS = {
    RequestState.DONE: "answered",
    RequestState.FAILED: "failed",
    RequestState.LEFT: "its client left",
}

STATES = {
    RequestState.UNPLACED: "now: no worker was chosen yet",
    RequestState.PREFILL: "now: its worker has it, no token came yet",
    RequestState.DECODE: "now: its tokens come",
}


def decision(row: DecisionRow, earlier: Sequence[DecisionRow], timeline: Text) -> Text:
    """Draw why a request went where it went.

    Args:
        row: the decision.
        earlier: decisions of the same session, the newest first.
        timeline: the timeline of the request, or why there is none.
    """
    one = row.decision
    head = [
        Text.assemble(
            ("request".ljust(LABEL), FAINT), one.request_id, (f"  {one.engine_request_id}", FAINT)
        ),
        named("time", f"{show.clock(row.at_s)}   session {one.session or show.NONE}"),
        Text.assemble(
            ("worker".ljust(LABEL), FAINT),
            winner(one),
            f"  because of {one.reason}{_against(one)} ({one.policy})",
        ),
        named("prompt", f"{one.prompt_tokens} tokens, {one.required_blocks} blocks"),
        named("cached", _cached(row)),
        *_from_where(one),
        named(
            "took",
            f"{show.micros(one.decision_us)}, waited {show.micros(one.waited_us)} for a worker",
        ),
    ]
    if one.moved:
        head.insert(MOVED_PLACE, _moved(row))
    if one.prefill_worker is not None:
        head.append(named("prefill", f"prefill worker {one.prefill_worker} knows most of it"))
    parts = [
        *head,
        *section(f"candidates, cost and its terms{_in_unit(one)}"),
        *_candidates(row),
        *section("timeline"),
        timeline,
        *section("earlier in this session"),
        *([_earlier(other) for other in earlier[:EARLIER]] or [Text(show.NONE, FAINT)]),
    ]
    return Text("\n").join(parts)


def _against(one: DecisionView) -> str:
    """Say by how much the winner was better or worse than the runner-up."""
    second, measure = runner_up(one), unit(one)
    if second is None or not measure:
        return ""
    than = "cheaper" if one.margin >= 0 else "dearer"
    by = amount(abs(one.margin), measure)
    if measure != "ms":
        count = cost(abs(one.margin))
        by = f"{count} {WORDS[measure].removesuffix('s') if count == '1' else WORDS[measure]}"
    return f", {by} {than} than worker {second.worker}"


def _in_unit(one: DecisionView) -> str:
    measure = unit(one)
    return f", {WORDS[measure]}" if measure else ""


def _moved(row: DecisionRow) -> Text:
    one = row.decision
    return Text.assemble(
        ("moved".ljust(LABEL), FAINT),
        (f"{MOVED_GLYPH} from worker {one.moved_from} ({one.moved})", WARN),
        f", with {one.output_tokens} tokens of its answer",
    )


def _cached(row: DecisionRow) -> str:
    one = row.decision
    measured = "not measured yet" if one.measured_tokens is None else f"{one.measured_tokens} found"
    return f"{one.predicted_tokens} tokens predicted, {measured}"


def _from_where(one: DecisionView) -> list[Text]:
    loaded = max(one.host_blocks - one.overlap_blocks, 0)
    where = f"{one.overlap_blocks} blocks in its cache, {loaded} more in the host cache"
    if read := min(loaded, one.disk_blocks):
        where += f", {read} of them on disk"
    return [named("", where)] if loaded else []


def _candidates(row: DecisionRow) -> list[Text]:
    """Draw a line for each worker. The policy defines the names and the meaning of the terms."""
    one = row.decision
    candidates = sorted(one.candidates, key=lambda candidate: candidate.cost)
    terms = list(dict.fromkeys(name for candidate in candidates for name in candidate.terms))
    heads = [_stacked(name.removesuffix(MS)) for name in terms]
    wide = [max(map(len, (*head, TERM * " "))) for head in heads]
    gap = WIDE_GAP if len(terms) <= MANY_TERMS else NARROW_GAP
    lines = _term_heads(heads, wide, gap)
    for candidate in candidates:
        won = candidate.worker == one.worker
        costs = (
            cost(value) if (value := candidate.terms.get(name)) is not None else show.NONE
            for name in terms
        )
        values = "".join(
            f"{value:>{width + gap}}" for value, width in zip(costs, wide, strict=True)
        )
        mark = "→" if won else " "
        lines.append(
            Text(
                f"{mark} {candidate.worker:<{4 + gap}}{candidate.overlap_blocks:>{7 + gap}}"
                f"{cost(candidate.cost):>{8 + gap}}{values}",
                GOOD if won else "",
            )
        )
    return lines


def _stacked(name: str) -> list[str]:
    """Break the name of a term at its underscores, so that the columns fit 80 cells."""
    lines: list[str] = []
    for word in name.split("_"):
        if lines and len(lines[-1]) + 1 + len(word) <= LONG_TERM:
            lines[-1] += f"_{word}"
        else:
            lines.append(word)
    return lines


def _term_heads(heads: list[list[str]], wide: list[int], gap: int) -> list[Text]:
    """Draw the titles of the columns, aligned at their last lines."""
    tall = max(map(len, heads), default=1)
    lines = []
    for number in range(tall):
        titles = ("worker", "overlap", "cost") if number == tall - 1 else ("", "", "")
        left = "{:<{}}{:>{}}{:>{}}".format(
            titles[0], 6 + gap, titles[1], 7 + gap, titles[2], 8 + gap
        )
        padded = ([""] * (tall - len(head)) + head for head in heads)
        cells = (f"{head[number]:>{width + gap}}" for head, width in zip(padded, wide, strict=True))
        lines.append(Text(left + "".join(cells), FAINT))
    return lines


def _earlier(row: DecisionRow) -> Text:
    one = row.decision
    return Text.assemble(
        (f"{show.clock(row.at_s)}  ", FAINT),
        winner(one),
        f"  {one.reason:<10} prompt {show.number(one.prompt_tokens):>5}  cached "
        f"{show.number(one.predicted_tokens)}/{show.number(one.measured_tokens)}",
    )


def timeline(view: TimelineView) -> Text:
    """Draw the stages of a request, each with its time and the time since the stage before."""
    runs = view.state not in ENDED
    whole = max(*view.stages_ms.values(), view.age_s * 1000 if runs else 0.0, 0.001)
    lines, before = [], 0.0
    for at_ms, what in _steps(view):
        lead = int(before / whole * BAR)
        length = max(int(at_ms / whole * BAR) - lead, 0)
        curve = (" " * lead + "─" * length + "●").ljust(BAR + 1)
        lines.append(
            Text.assemble(
                f"{at_ms:>9.1f} ms ",
                (f"{f'+{at_ms - before:.1f}':>8} ", FAINT),
                (curve, ACCENT),
                f" {what}",
            )
        )
        before = at_ms
    lines.append(Text(_so_far(view) if runs else _end(view), FAINT))
    return Text("\n").join(lines)


def _end(view: TimelineView) -> str:
    end = view.finish_reason or view.error or str(view.status)
    where = (
        f", prefilled by prefill worker {view.prefill_worker}"
        if view.prefill_worker is not None
        else ""
    )
    return f"ended with {end}, {view.output_tokens} tokens{where}"


def _so_far(view: TimelineView) -> str:
    tokens = f", {view.output_tokens} tokens so far" if view.output_tokens else ""
    return (
        f"still running after {show.seconds(view.age_s)}{tokens}; "
        "the other stages are told when it has ended"
    )


def _steps(view: TimelineView) -> list[tuple[float, str]]:
    """Return stages and moves in the order of time: milliseconds, and what happened."""
    ends = {"ended": ENDS.get(RequestState(view.state), "ended")}
    steps = [(at_ms, (STAGES | ends).get(name, name)) for name, at_ms in view.stages_ms.items()]
    if view.state not in ENDED:
        steps.append((view.age_s * 1000, STATES[RequestState(view.state)]))
    for move in view.moves:
        steps.append(
            (move.at_ms, f"{MOVED_GLYPH} {move.source}: {move.reason}, {move.output_tokens} tokens")
        )
        if move.target is None:
            steps.append((move.at_ms, f"{MOVED_GLYPH} found no place"))
        elif move.gap_ms is not None:
            steps.append((move.at_ms + move.gap_ms, f"{MOVED_GLYPH} goes on: {move.target}"))
    return sorted(steps, key=lambda step: step[0])
