"""Questions to the server beside the dashboard, without a terminal."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import pytest

from dynamo_cli.dashboard.asker import Asker
from dynamo_cli.dashboard.events import RequestTimelines
from dynamo_cli.dashboard.experiment import Experiment, ReplayStage
from dynamo_cli.dashboard.model import BoardState
from dynamo_cli.dashboard.source import Source
from dynamo_cli.errors import CannotWatch
from dynamo_cli.watch.schema import Snapshot

from .eight import request
from .made import snapshot


class Work:
    """Work that was begun, and is finished when a test says so."""

    def __init__(self, work: Coroutine[Any, Any, None]) -> None:
        self.work = work
        self.is_finished = self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True
        self.work.close()

    def finish(self) -> None:
        asyncio.run(self.work)  # type: ignore[arg-type]
        self.is_finished = True


class App:
    """What a dashboard is for an `Asker`."""

    is_web = False

    def __init__(self) -> None:
        self.begun: list[Work] = []
        self.told: list[str] = []

    def run_worker(self, work: Coroutine[Any, Any, None], group: str) -> Work:
        self.begun.append(Work(work))
        return self.begun[-1]

    def notify(self, message: str, severity: str) -> None:
        assert severity == "warning"
        self.told.append(message)


def asker(app: App, state: BoardState, **functions: Any) -> Asker:
    return Asker(app, state, Source(**functions), lambda: 5.0)  # type: ignore[arg-type]


def test_a_question_is_asked_when_the_last_one_is_answered_and_only_about_news() -> None:
    app, state = App(), BoardState()
    asked: list[int] = []

    async def requests(after: int) -> RequestTimelines:
        asked.append(after)
        return RequestTimelines([request(7)])

    one = asker(app, state, requests=requests)
    one.ask_for_requests()
    one.ask_for_requests()
    assert len(app.begun) == 1, "the first is not answered yet"
    app.begun[0].finish()
    one.ask_for_requests()
    app.begun[1].finish()
    assert asked == [0, 7]
    assert len(state.board(5.0).requests) == 1
    asker(app, state).ask_for_requests()
    assert len(app.begun) == 2, "nobody can be asked"


def test_a_failure_is_told_once_as_long_as_it_lasts() -> None:
    app = App()
    failing = [True]

    async def requests(after: int) -> RequestTimelines:
        if failing[0]:
            raise CannotWatch("it does not answer.")
        return RequestTimelines([])

    one = asker(app, BoardState(), requests=requests)
    for fails, told in ((True, 1), (True, 1), (False, 1), (True, 2)):
        failing[0] = fails
        one.ask_for_requests()
        app.begun[-1].finish()
        assert app.told == ["it does not answer."] * told


async def never(_: Snapshot) -> AsyncIterator[Experiment]:
    yield Experiment(ReplayStage.DONE)


@pytest.mark.parametrize(
    ("recorded", "replays", "is_web", "says"),
    [
        (None, True, False, "--record FILE"),
        (3, False, False, "from a terminal"),
        (3, True, True, "from a terminal"),
        (3, True, False, ""),
    ],
)
def test_a_replay_needs_a_record_and_a_terminal(
    recorded: int | None, replays: bool, is_web: bool, says: str
) -> None:
    app, state = App(), BoardState()
    app.is_web = is_web
    state.apply(snapshot(recorded_requests=recorded), 5.0)
    one = asker(app, state, **({"replay": never} if replays else {}))
    one.replay_or_stop(state.board(5.0))
    assert [says in told for told in app.told] == ([True] if says else [])
    assert len(app.begun) == (not says)
    for work in app.begun:
        work.finish()


def test_the_key_stops_a_replay_that_runs_and_starts_another_one_afterwards() -> None:
    app, state = App(), BoardState()
    state.apply(snapshot(recorded_requests=3), 5.0)
    one = asker(app, state, replay=never)
    one.replay_or_stop(state.board(5.0))
    one.replay_or_stop(state.board(5.0))
    assert app.begun[0].cancelled
    assert state.board(5.0).experiment.stage is ReplayStage.STOPPED
    app.begun[0].is_finished = True
    one.replay_or_stop(state.board(5.0))
    app.begun[1].finish()
    assert state.board(5.0).experiment.stage is ReplayStage.DONE
    one.replay_or_stop(state.board(5.0))
    assert len(app.begun) == 3
    app.begun[2].work.close()
