"""Defines the table of requests, and draws one in full. Pure."""

from __future__ import annotations

from rich.text import Text

from dynamo_cli.dashboard import format as show
from dynamo_cli.dashboard.draw.decisions import SHORT, short
from dynamo_cli.dashboard.draw.details import timeline
from dynamo_cli.dashboard.draw.style import BAD, FAINT, GOOD, MOVED_GLYPH, WARN, named, section
from dynamo_cli.dashboard.draw.table import Column, Spec
from dynamo_cli.dashboard.requests import RequestRow
from dynamo_cli.watch.timelines import RequestState

SLOW_S = 1.0
"""A request whose first token takes longer is called slow, and marked."""

STATES = {
    RequestState.UNPLACED: ("○", "unplaced", WARN),
    RequestState.PREFILL: ("◐", "prefill", WARN),
    RequestState.DECODE: ("►", "decode", GOOD),
    RequestState.DONE: ("●", "done", FAINT),
    RequestState.FAILED: ("✗", "failed", BAD),
    RequestState.LEFT: ("◌", "left", FAINT),
}
EXPLAINED = {
    RequestState.UNPLACED: "runs: no worker was chosen yet",
    RequestState.PREFILL: "runs: its worker has it, its first token has not come",
    RequestState.DECODE: "runs: its tokens come",
    RequestState.DONE: "done",
    RequestState.FAILED: "failed",
    RequestState.LEFT: "its client left before the end of the answer",
}


def slow(row: RequestRow) -> bool:
    """Whether the first token took long, or has not come for long."""
    return (row.waited_s or 0.0) > SLOW_S


def _state(row: RequestRow) -> Text:
    sign, word, style = STATES[RequestState(row.view.state)]
    return Text(f"{sign} {word}", style)


def _worker(row: RequestRow) -> Text:
    if row.view.worker is None:
        return Text(show.NONE, FAINT)
    if row.view.moves:
        return Text(f"{MOVED_GLYPH} {row.view.worker}", WARN)
    return Text(f"→ {row.view.worker}")


def _waited(row: RequestRow) -> Text:
    """Draw the time to the first token; with a sign while it has not come."""
    waiting = "≥" if row.view.ttft_ms is None and row.running else ""
    return Text(f"{waiting}{show.seconds(row.waited_s)}", WARN if slow(row) else "")


def _end(row: RequestRow) -> Text:
    view = row.view
    if row.running:
        return Text("")
    if view.state == RequestState.FAILED:
        return Text(f"{view.status} {view.error}".strip(), BAD)
    return Text(view.finish_reason or str(view.status), FAINT)


def _count(value: int) -> str:
    return show.number(value) if value else show.NONE


def _per_token_s(row: RequestRow) -> float | None:
    """Mean time between tokens; None before the second one."""
    if row.view.ttft_ms is None or row.view.output_tokens < 2:
        return None
    return max(row.took_s - row.view.ttft_ms / 1000, 0.0) / (row.view.output_tokens - 1)


def _words(row: RequestRow) -> str:
    view = row.view
    return (
        f"{view.request_id} {view.session} {view.endpoint} {view.model} {view.error} "
        f"{view.finish_reason} {STATES[RequestState(view.state)][1]} "
        f"{'running' if row.running else 'ended'} "
        f"{'error' if view.state == RequestState.FAILED else ''} "
        f"{'slow' if slow(row) else ''} {'moved' if view.moves else ''}"
    )


def _words_of_state(row: RequestRow) -> str:
    return f"{row.view.state} {'running' if row.running else 'ended'}"


REQUESTS: Spec[RequestRow] = Spec(
    columns=(
        Column("came", 8, lambda row: Text(show.clock(row.at_s), FAINT), lambda row: row.at_s),
        Column("request", SHORT, lambda row: short(row.view.request_id)),
        Column("state", 11, _state, lambda row: str(row.view.state)),
        Column(
            *("worker", 6, _worker),
            lambda row: -1 if row.view.worker is None else row.view.worker,
        ),
        Column("TTFT", 8, _waited, lambda row: row.waited_s or 0.0, right=True),
        Column(
            *("took", 6, lambda row: show.seconds(row.took_s)),
            lambda row: row.took_s,
            right=True,
        ),
        Column(
            *("prompt", 6, lambda row: _count(row.view.prompt_tokens)),
            lambda row: row.view.prompt_tokens,
            right=True,
        ),
        Column(
            *("output", 6, lambda row: _count(row.view.output_tokens)),
            lambda row: row.view.output_tokens,
            right=True,
        ),
        Column("end", 8, _end, lambda row: _end(row).plain, stretch=True, most=26),
        Column(
            *("cached", 6, lambda row: _count(row.view.cached_tokens)),
            lambda row: row.view.cached_tokens,
            right=True,
            from_width=95,
        ),
        Column(
            *("per tok", 7, lambda row: show.seconds(_per_token_s(row))),
            lambda row: _per_token_s(row) or 0.0,
            right=True,
            from_width=105,
        ),
        Column(
            *("session", 12, lambda row: row.view.session or Text(show.NONE, FAINT)),
            lambda row: row.view.session,
            from_width=118,
            stretch=True,
            most=32,
        ),
        Column(
            *("endpoint", 20, lambda row: Text(row.view.endpoint, FAINT)),
            lambda row: row.view.endpoint,
            from_width=140,
        ),
        Column(
            *("model", 12, lambda row: Text(row.view.model, FAINT)),
            lambda row: row.view.model,
            from_width=160,
            stretch=True,
        ),
    ),
    key=lambda row: row.key,
    words=_words,
    copied=lambda row: row.view.request_id,
    tail=True,
    empty="no request came yet",
    fields={
        "state": _words_of_state,
        "worker": lambda row: row.view.worker,
        "session": lambda row: row.view.session,
        "error": lambda row: row.view.error,
        "ttft": lambda row: row.waited_s,
        "took": lambda row: row.took_s,
        "prompt": lambda row: row.view.prompt_tokens,
        "output": lambda row: row.view.output_tokens,
        "cached": lambda row: row.view.cached_tokens,
        "status": lambda row: row.view.status,
        "request": lambda row: row.view.request_id,
        "endpoint": lambda row: row.view.endpoint,
        "model": lambda row: row.view.model,
    },
)


def detail(row: RequestRow) -> Text:
    """Draw all that is known of a request, with its timeline."""
    view = row.view
    state = RequestState(view.state)
    sign, _, style = STATES[state]
    lines = [
        named("request", view.request_id),
        named("state", Text(f"{sign} {EXPLAINED[state]}", style)),
        named("came", f"{show.clock(row.at_s)}   session {view.session or show.NONE}"),
        named("path", f"{view.endpoint}   model {view.model or show.NONE}"),
        named("worker", show.NONE if view.worker is None else str(view.worker)),
        named("prompt", _prompt(row)),
        named("answer", _answer(row)),
        named("TTFT", f"{show.seconds(row.waited_s)}, {show.seconds(row.took_s)} in all"),
    ]
    if view.state == RequestState.FAILED:
        lines.append(named("error", Text(f"{view.status} {view.error}".strip(), BAD)))
    return Text("\n").join([*lines, *section("timeline"), timeline(view)])


def _prompt(row: RequestRow) -> str:
    view = row.view
    if not view.prompt_tokens:
        return "not known yet" if row.running else "not known: it was not computed"
    length = f"{view.prompt_tokens:,} tokens"
    if row.running:
        return length
    return f"{length}, {show.percent(view.cached_tokens / view.prompt_tokens)} of it cached"


def _answer(row: RequestRow) -> str:
    view = row.view
    gap = _per_token_s(row)
    each = f", {show.seconds(gap)} per token" if gap is not None else ""
    if row.running and not view.output_tokens:
        return "no token has come yet, or it is not streamed"
    return f"{view.output_tokens:,} tokens{each}"
