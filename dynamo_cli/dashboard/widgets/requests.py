"""The requests tab: what runs, and what has ended."""

from __future__ import annotations

from rich.text import Text
from textual.app import ComposeResult

from dynamo_cli.dashboard import format as show
from dynamo_cli.dashboard.draw.requests import REQUESTS, slow
from dynamo_cli.dashboard.draw.style import BAD, FAINT, STRONG, WARN, fitting
from dynamo_cli.dashboard.model import Board
from dynamo_cli.dashboard.widgets.pane import Pane
from dynamo_cli.dashboard.widgets.tab import Tab
from dynamo_cli.dashboard.widgets.table import Table
from dynamo_cli.watch.timelines import RequestState

STATES = (RequestState.UNPLACED, RequestState.PREFILL, RequestState.DECODE)


class RequestsTab(Tab):
    """The seventh tab, with requests."""

    def __init__(self) -> None:
        super().__init__(id="requests")

    def compose(self) -> ComposeResult:
        """Create the widgets."""
        yield Pane(lambda board, width, _: summary(board, width), id="requests-summary")
        yield Table(REQUESTS, id="requests-table")

    def show(self, board: Board) -> None:
        """Show this board from now on."""
        super().show(board)
        self.query_one(Table).show(board.requests)


def summary(board: Board, width: int) -> Text:
    """Draw how many requests are in each state, and what to type for a filter."""
    counts = dict.fromkeys(RequestState, 0)
    for row in board.requests:
        counts[RequestState(row.view.state)] += 1
    running = sum(counts[state] for state in STATES)
    states = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
    late = sum(map(slow, board.requests))
    failed = counts[RequestState.FAILED]
    left = counts[RequestState.LEFT]
    runs = Text.assemble((str(running), STRONG), " running")
    ended = [
        Text(f"{show.number(counts[RequestState.DONE])} done"),
        Text(f"{show.number(failed)} failed", BAD if failed else FAINT),
        Text(f"{show.number(left)} left" if left else "", FAINT),
        Text(f"{show.number(late)} slow", WARN if late else FAINT),
    ]
    parts = [Text.assemble(runs, f" ({states})" if states else ""), *ended]
    hint = Text("/ running  error  slow  worker:3  session:x  ttft>1s", FAINT)
    return fitting(width, [*parts, hint], [*parts, Text("/ filters", FAINT)], parts, [runs, *ended])
