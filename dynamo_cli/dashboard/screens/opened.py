"""Opens rows of tables in full, and asks the server for timelines of requests."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from rich.text import Text
from textual.app import App

from dynamo_cli.dashboard.draw import details, facts, requests
from dynamo_cli.dashboard.draw.workers import Worker
from dynamo_cli.dashboard.model import Board, DecisionRow
from dynamo_cli.dashboard.requests import RequestRow
from dynamo_cli.dashboard.screens.detail import Detail
from dynamo_cli.errors import CannotWatch
from dynamo_cli.watch.logs import LogView
from dynamo_cli.watch.node_schema import NodeView
from dynamo_cli.watch.schema import GpuView, ProcessView
from dynamo_cli.watch.timelines import TimelineView

Timelines = Callable[[str], Awaitable[list[TimelineView]]]


class Opener:
    """Shows rows in full.

    Args:
        app: shows the screens.
        timelines: returns the timelines of the requests with an id; None if there are none.
    """

    def __init__(self, app: App[None], timelines: Timelines | None) -> None:
        self._app = app
        self._timelines = timelines
        self._request: tuple[str, Detail] | None = None

    def open(self, item: object, board: Board) -> None:
        """Show a row in full."""
        match item:
            case DecisionRow():
                self._open_decision(item, board)
            case RequestRow():
                self._request = item.key, self._push("request", requests.detail(item))
            case Worker():
                self._push(item.name, facts.worker(item))
            case ProcessView():
                self._push(item.name, facts.process(item))
            case GpuView():
                self._push(f"gpu {item.gpu}", facts.gpu(item))
            case NodeView():
                self._push(item.name, facts.node(item))
            case LogView():
                self._push("log line", facts.line(item))

    def refresh(self, board: Board) -> None:
        """Show what is new about a request whose details are open."""
        if self._request is None or self._app.screen is not self._request[1]:
            return
        key, screen = self._request
        row = next((row for row in reversed(board.requests) if row.key == key), None)
        if row is not None:
            screen.show(requests.detail(row))

    def _push(self, title: str, text: Text) -> Detail:
        screen = Detail(title, text)
        self._app.push_screen(screen)
        return screen

    def _open_decision(self, row: DecisionRow, board: Board) -> None:
        session = row.decision.session
        earlier = [
            other
            for other in reversed(board.decisions)
            if session and other.decision.session == session and other.at_s < row.at_s
        ]
        waiting = Text("asking the server …" if self._timelines else "not known here", "dim")
        screen = Detail("routing decision", details.decision(row, earlier, waiting))
        self._app.push_screen(screen)
        if self._timelines is not None:
            self._app.run_worker(self._tell_timeline(screen, row, earlier, self._timelines))

    @staticmethod
    async def _tell_timeline(
        screen: Detail, row: DecisionRow, earlier: list[DecisionRow], timelines: Timelines
    ) -> None:
        try:
            found = await timelines(row.decision.request_id)
        except CannotWatch as failure:
            text = Text(failure.message, "dim")
        else:
            gone = Text("the server does not know it any more: it ended too long ago", "dim")
            text = details.timeline(found[0]) if found else gone
        screen.show(details.decision(row, earlier, text))
