"""Defines the table of routing decisions, and formats costs with their units. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from rich.text import Text

from dynamo_cli.dashboard import format as show
from dynamo_cli.dashboard.draw.style import BAD, FAINT, GOOD, MOVED_GLYPH, STRONG, WARN
from dynamo_cli.dashboard.draw.table import Column, Spec
from dynamo_cli.dashboard.model import DecisionRow
from dynamo_cli.watch.decisions import CandidateView, DecisionView

MS = "_ms"
"""End of the names of terms that are times in milliseconds."""

UNITS: tuple[tuple[frozenset[str], str], ...] = (
    (frozenset({"running_requests", "weighted_waiting_requests"}), "req"),
    (frozenset({"prefill", "decode", "incoming"}), "blk"),
    (frozenset({"overlap", "kv_usage", "waiting"}), "pt"),
)
"""Units of costs by the names of their terms: requests, blocks, points."""

SHORT = 10
"""Width of a shortened id."""

WORDS = {"ms": "milliseconds", "req": "requests", "blk": "blocks", "pt": "points"}


def unit(decision: DecisionView) -> str:
    """Return the unit of the costs of a decision; empty if they are no amounts of anything, as with
    random choices."""
    names = {name for candidate in decision.candidates for name in candidate.terms}
    if names and all(name.endswith(MS) for name in names):
        return "ms"
    return next((word for terms, word in UNITS if names and names <= terms), "")


def cost(value: float) -> str:
    """Format a cost without its unit."""
    return f"{value:.2f}" if abs(value) < 9.995 and value != int(value) else show.number(value)


def amount(value: float, measure: str) -> str:
    """Format a cost with its unit: ``12 ms``, ``1.4 s``, ``3 req``; a dash without a unit."""
    if not measure:
        return show.NONE
    return show.seconds(value / 1000) if measure == "ms" else f"{cost(value)} {measure}"


def winner(decision: DecisionView) -> Text:
    """Draw the chosen worker, with another sign if the request had to leave one before."""
    if decision.worker is None:
        return Text(show.NONE, BAD)
    if decision.moved:
        return Text(f"{MOVED_GLYPH} {decision.worker}", WARN)
    return Text(f"→ {decision.worker}", GOOD)


def runner_up(decision: DecisionView) -> CandidateView | None:
    """Return the candidate with the lowest cost of those that were not chosen."""
    others = (one for one in decision.candidates if one.worker != decision.worker)
    return min(others, key=lambda one: one.cost, default=None)


def short(name: str, width: int = SHORT) -> str:
    """Shorten an id: the first digits of a random one, both ends of a name."""
    if len(name) <= width:
        return name
    if all(letter in "0123456789abcdef-" for letter in name.lower()):
        return name[:width]
    return f"{name[: width - 5]}…{name[-4:]}"


def _next(row: DecisionRow) -> str:
    second = runner_up(row.decision)
    return show.NONE if second is None or not unit(row.decision) else str(second.worker)


def _margin(row: DecisionRow) -> str:
    one = row.decision
    return amount(one.margin, unit(one)) if runner_up(one) is not None else show.NONE


def _by_worker(row: DecisionRow) -> Iterable[tuple[CandidateView, bool]]:
    one = row.decision
    for candidate in sorted(one.candidates, key=lambda each: each.worker):
        yield candidate, candidate.worker == one.worker


def _overlap(row: DecisionRow) -> Text:
    """Draw a small bar for each worker: the share of the prompt that it holds. The winner's bar is
    bright."""
    blocks = max(row.decision.required_blocks, 1)
    bars = Text()
    for candidate, won in _by_worker(row):
        bars.append(
            show.level(candidate.overlap_blocks / blocks), f"{STRONG} {GOOD}" if won else FAINT
        )
    return bars


def _costs(row: DecisionRow) -> Text:
    """Draw the costs in the order of the workers, and their unit. The winner's cost is bright."""
    measure = unit(row.decision)
    if not measure:
        return Text(show.NONE, FAINT)
    costs = Text()
    for candidate, won in _by_worker(row):
        costs.append(cost(candidate.cost), f"{STRONG} {GOOD}" if won else "")
        costs.append(" ")
    return costs.append(measure, FAINT)


def _moved_words(decision: DecisionView) -> str:
    return f"moved {decision.moved}" if decision.moved else ""


def _won(row: DecisionRow) -> int:
    """Sort key of the chosen worker: rows without one come before the first worker."""
    return -1 if row.decision.worker is None else row.decision.worker


def _cached(row: DecisionRow) -> Text:
    """Draw predicted and measured tokens, with a sign if fewer were measured than predicted."""
    decision = row.decision
    predicted, measured = decision.predicted_tokens, decision.measured_tokens
    text = Text(f"{show.number(predicted)}/{show.number(measured)}")
    if measured is not None and measured < predicted:
        text = Text.assemble(("↓", WARN), text)
    return text


DECISIONS: Spec[DecisionRow] = Spec(
    columns=(
        Column("time", 8, lambda row: Text(show.clock(row.at_s), FAINT)),
        Column("request", SHORT, lambda row: short(row.decision.request_id)),
        Column("won", 4, lambda row: winner(row.decision), _won),
        Column("next", 4, _next, right=True),
        Column("margin", 8, _margin, lambda row: row.decision.margin, right=True),
        Column("why", 7, lambda row: row.decision.reason, lambda row: row.decision.reason),
        Column(
            *("prompt", 6, lambda row: show.number(row.decision.prompt_tokens)),
            lambda row: row.decision.prompt_tokens,
            right=True,
        ),
        Column(
            *("cached", 9, _cached),
            lambda row: row.decision.measured_tokens or 0,
            right=True,
        ),
        Column("overlap", 8, _overlap, lambda row: row.decision.overlap_blocks),
        Column("costs of workers", 16, _costs, stretch=True, most=70, from_width=90),
        Column(
            *("took", 7, lambda row: show.micros(row.decision.decision_us)),
            lambda row: row.decision.decision_us,
            right=True,
            from_width=110,
        ),
        Column(
            *("waited", 7, lambda row: show.micros(row.decision.waited_us)),
            lambda row: row.decision.waited_us,
            right=True,
            from_width=120,
        ),
        Column(
            *("session", 12, lambda row: row.decision.session or Text(show.NONE, FAINT)),
            lambda row: row.decision.session,
            from_width=130,
            stretch=True,
        ),
    ),
    key=lambda row: row.key,
    words=lambda row: (
        f"{row.decision.request_id} {row.decision.session} {row.decision.reason} "
        f"worker {row.decision.worker} {_moved_words(row.decision)}"
    ),
    copied=lambda row: row.decision.request_id,
    tail=True,
    empty="no request was routed yet",
    fields={
        "worker": lambda row: row.decision.worker,
        "request": lambda row: row.decision.request_id,
        "session": lambda row: row.decision.session,
        "why": lambda row: row.decision.reason,
        "prompt": lambda row: row.decision.prompt_tokens,
        "cached": lambda row: row.decision.measured_tokens,
        "predicted": lambda row: row.decision.predicted_tokens,
        "margin": lambda row: row.decision.margin,
        "moved": lambda row: row.decision.moved,
        "took": lambda row: row.decision.decision_us / 1e6,
        "waited": lambda row: row.decision.waited_us / 1e6,
    },
)
