"""Where a processor sends requests while workers are retired, and without a router."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pytest

from dynamo_cli.errors import NotReady
from dynamo_cli.messages.lifecycle import Released
from dynamo_cli.messages.routing import RequestEnd, RouteAnswer, RouteQuery
from dynamo_cli.processor.dispatch import Dispatch
from dynamo_cli.topology import ROUTER, ProcessId


class FakeSwitchboard:
    """Keeps what is sent; its router answers queries with the workers of `answers`, in order."""

    def __init__(self, *answers: int | None) -> None:
        self.answers = list(answers)
        self.asked = 0
        self.excluded: tuple[int, ...] = ()  # by the last query
        self.reports: list[Any] = []
        self.ends: list[str] = []
        self.dispatch: Dispatch

    def send(self, peer: ProcessId, message: Any) -> bool:
        if peer == ROUTER and isinstance(message, RouteQuery):
            self.asked += 1
            self.excluded = message.excluded
            answer = RouteAnswer(message.request_id, self.answers.pop(0), 0)
            asyncio.get_running_loop().call_soon(self.dispatch.answered, answer)
        elif peer == ROUTER and isinstance(message, RequestEnd):
            self.ends.append(message.request_id)
        return True

    def post(self, peer: ProcessId, message: Any) -> bool:
        return self.send(peer, message)

    def report(self, message: Any) -> None:
        self.reports.append(message)

    def refused_sends(self) -> int:
        return 0


def dispatch(board: FakeSwitchboard, workers: int = 2) -> Dispatch:
    board.dispatch = Dispatch(board, routed=True)  # type: ignore[arg-type]
    for worker in range(workers):
        board.dispatch.worker_ready(worker)
    return board.dispatch


def place(where: Dispatch, name: str) -> int:
    return asyncio.run(where.place(RouteQuery(name, name, 1))).worker


@pytest.mark.parametrize(("named", "ends"), [(1, ["a"]), (None, [])])
def test_the_router_forgets_what_found_no_worker_that_is_ready(
    named: int | None, ends: list[str]
) -> None:
    board = FakeSwitchboard(named)
    where = dispatch(board, workers=0)
    with pytest.raises(NotReady):
        place(where, "a")
    assert (board.ends, where.placed, where.queries) == (ends, 0, 0)


@pytest.mark.parametrize("answered", [False, True])
def test_the_router_forgets_a_query_that_is_cancelled(answered: bool) -> None:
    async def scenario() -> None:
        board = FakeSwitchboard(1)
        where = dispatch(board)
        task = asyncio.create_task(where.place(RouteQuery("a", "a", 1)))
        await asyncio.sleep(0)
        if answered:  # but the task has not run since
            where.answered(RouteAnswer("a", 1, 0))
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        assert (board.ends, where.placed, where.queries) == (["a"], 0, 0)

    asyncio.run(scenario())


def test_without_a_router_a_request_keeps_its_own_priority() -> None:
    where = dispatch(FakeSwitchboard(None))
    answer = asyncio.run(where.place(RouteQuery("a", "a", 1, priority=7)))
    assert (answer.worker, answer.engine_order) == (0, 7)


def test_without_a_router_a_request_that_waits_for_its_first_token_counts_as_four() -> None:
    where = dispatch(FakeSwitchboard(0, *[1] * 4, *[None] * 2))
    for name in "abcde":  # the router puts four on worker 1
        place(where, name)
    for name in "bcde":
        where.first_token(name, 0)
    assert place(where, "four and four") == 0
    where.ended("b")
    assert place(where, "two times four, and three") == 1


def test_a_retired_worker_is_released_when_its_requests_are_over() -> None:
    board = FakeSwitchboard(1, 1, 0)
    where = dispatch(board)
    assert [place(where, name) for name in "abc"] == [1, 1, 0]
    where.worker_retired(1)
    assert where.ready_workers() == {0}
    where.ended("a")
    where.ended("c")
    assert board.reports == []
    where.ended("b")
    assert board.reports == [Released(1)]


def test_one_that_has_nothing_is_released_at_once() -> None:
    board = FakeSwitchboard()
    dispatch(board).worker_retired(1)
    assert board.reports == [Released(1)]


def test_a_router_that_has_not_heard_of_it_is_asked_again() -> None:
    board = FakeSwitchboard(1, 1, 0)
    where = dispatch(board)
    where.worker_retired(1)
    assert place(where, "a") == 0
    assert board.asked == 3
    assert where.unrouted == 0


def test_one_that_is_retired_is_named_to_the_router_only_until_it_has_ended() -> None:
    board = FakeSwitchboard(0, 0, 0)
    where = dispatch(board, workers=3)
    where.worker_retired(2)
    where.worker_gone(1)
    assert place(where, "a") == 0
    assert board.excluded == (1, 2)
    where.worker_gone(2)
    assert place(where, "b") == 0
    assert board.excluded == (1,)  # this one comes back
    where.worker_ready(1)
    assert place(where, "c") == 0
    assert board.excluded == ()


def test_an_engine_that_comes_up_too_late_gets_nothing_until_its_next_life() -> None:
    where = dispatch(FakeSwitchboard(), workers=1)
    where.worker_retired(1)
    where.worker_ready(1)
    assert where.ready_workers() == {0}
    where.worker_gone(1)
    where.worker_ready(1)
    assert where.ready_workers() == {0, 1}
