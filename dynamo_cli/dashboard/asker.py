"""Asks the server for requests, and runs replays of what it has recorded, beside the dashboard."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace

from textual.app import App
from textual.worker import Worker

from dynamo_cli.dashboard.events import Event
from dynamo_cli.dashboard.experiment import ReplayStage
from dynamo_cli.dashboard.model import Board, BoardState
from dynamo_cli.dashboard.source import KnownRequests, Source
from dynamo_cli.errors import CannotWatch


class Asker:
    """Applies what the server answers to the state.

    Args:
        app: runs the questions and shows warnings.
        state: what is known of the server.
        source: asks the server.
        clock: seconds since 1970.
    """

    def __init__(
        self, app: App[None], state: BoardState, source: Source, clock: Callable[[], float]
    ) -> None:
        self._app = app
        self._state = state
        self._source = source
        self._clock = clock
        self._asking = False
        self._warned = ""
        self._replaying: Worker[None] | None = None

    def ask_for_requests(self) -> None:
        """Ask for new requests, unless the last question is not answered yet."""
        if self._source.requests is not None and not self._asking:
            self._asking = True
            self._app.run_worker(self._hear_requests(self._source.requests), group="requests")

    async def _hear_requests(self, requests: KnownRequests) -> None:
        try:
            found = await requests(self._state.last_request)
        except CannotWatch as failure:
            self._warn(failure.message)
        else:
            self._warned = ""
            self._state.apply(found, self._clock())
        finally:
            self._asking = False

    def _warn(self, message: str) -> None:
        """Show a warning, once as long as it stays the same."""
        if message != self._warned:
            self._warned = message
            self._app.notify(message, severity="warning")

    def replay_or_stop(self, board: Board) -> None:
        """Start a replay of the last hour, or stop the one that runs."""
        snapshot = board.snapshot
        if self._replaying is not None and not self._replaying.is_finished:
            self._replaying.cancel()
            self._state.apply(replace(board.experiment, stage=ReplayStage.STOPPED), self._clock())
        elif snapshot is None or snapshot.recorded_requests is None:
            self._app.notify("start the server with --record FILE first", severity="warning")
        elif self._source.replay is None or self._app.is_web:
            self._app.notify("a replay is started from a terminal, with top", severity="warning")
        else:
            events = self._source.replay(snapshot)
            self._replaying = self._app.run_worker(self._hear_replay(events), group="replay")

    async def _hear_replay(self, events: AsyncIterator[Event]) -> None:
        async for event in events:
            self._state.apply(event, self._clock())
