"""The routing tab: routing decisions as they happen."""

from __future__ import annotations

from rich.text import Text
from textual.app import ComposeResult

from dynamo_cli.dashboard import format as show
from dynamo_cli.dashboard.draw.decisions import DECISIONS
from dynamo_cli.dashboard.draw.style import FAINT, WARN, fitting
from dynamo_cli.dashboard.model import Board
from dynamo_cli.dashboard.widgets.pane import Pane
from dynamo_cli.dashboard.widgets.tab import Tab
from dynamo_cli.dashboard.widgets.table import Table


class RoutingTab(Tab):
    """The third tab, with decisions."""

    def __init__(self) -> None:
        super().__init__(id="routing")

    def compose(self) -> ComposeResult:
        """Create the widgets."""
        yield Pane(lambda board, width, _: summary(board, width), id="routing-summary")
        yield Table(DECISIONS, id="decisions-table")

    def show(self, board: Board) -> None:
        """Show this board from now on."""
        super().show(board)
        self.query_one(Table).show(board.decisions)


def summary(board: Board, width: int) -> Text:
    """Draw the policy, and how often each worker was chosen."""
    router = board.snapshot.router if board.snapshot else None
    if router is None:
        return Text("There is no router: every request goes to the one worker.", FAINT)
    total = sum(router.decisions.values()) or 1
    shares = {worker: count / total for worker, count in sorted(router.decisions.items())}
    named = "  ".join(f"{worker}: {show.percent(share)}" for worker, share in shares.items())
    short = " ".join(f"{share * 100:.0f}" for share in shares.values()) + " %"
    parts: list[Text | str] = [
        router.policy,
        Text.assemble(f"{show.rate(board.flow.decisions)} ", ("decided", FAINT)),
        Text.assemble(("waiting ", FAINT), show.number(router.waiting_requests)),
        Text(f"{show.number(board.missed)} not shown", WARN) if board.missed else "",
    ]
    if not shares:
        return fitting(width, parts)
    chosen = (Text.assemble(("chosen ", FAINT), form) for form in (named, short))
    return fitting(width, *([*parts, form] for form in chosen))
