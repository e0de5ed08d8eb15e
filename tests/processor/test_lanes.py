"""The threads beside the event loop: order of owners, cancelled jobs, and a thread that hangs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError

import pytest

from dynamo_cli.engines.vllm.front.lanes import LONG_BYTES, Lane, Lanes
from dynamo_cli.engines.vllm.front.trace import RequestTrace, current_trace

PATIENCE_S = 20


class Held:
    """A lane whose thread is busy until the test releases it."""

    def __init__(self) -> None:
        self.lane = Lane("test")
        self.go, self.began = threading.Event(), threading.Event()
        self.first = self.lane.submit("first", self._wait)
        assert self.began.wait(PATIENCE_S)

    def _wait(self) -> str:
        self.began.set()
        assert self.go.wait(PATIENCE_S)
        return "first"


@pytest.fixture
def held() -> Iterator[Held]:
    held = Held()
    yield held
    held.go.set()


def test_owners_have_the_thread_in_turns(held: Held) -> None:
    done: list[str] = []
    futures = [
        held.lane.submit(owner, lambda name=owner + number: done.append(name))
        for owner, number in (
            ("a", "1"),
            ("a", "2"),
            ("a", "3"),
            ("b", "1"),
            ("b", "2"),
            ("c", "1"),
        )
    ]
    held.go.set()
    for future in futures:
        future.result(PATIENCE_S)
    assert done == ["a1", "b1", "c1", "a2", "b2", "a3"]


def test_what_is_cancelled_is_not_done_and_the_rest_is(held: Held) -> None:
    done: list[int] = []
    one, two = (held.lane.submit("a", lambda number=n: done.append(number)) for n in (1, 2))
    assert one.cancel()
    held.go.set()
    two.result(PATIENCE_S)
    assert done == [2]
    with pytest.raises(CancelledError):
        one.result(0)


def test_an_error_is_the_waiters_and_the_lane_goes_on(held: Held) -> None:
    bad = held.lane.submit("a", lambda: 1 // 0)
    held.go.set()
    assert isinstance(bad.exception(PATIENCE_S), ZeroDivisionError)
    assert held.lane.submit("a", lambda: 7).result(PATIENCE_S) == 7


def test_a_thread_that_hangs_is_left_behind_with_its_own_job_only(held: Held) -> None:
    waiting = [held.lane.submit(owner, lambda name=owner: name) for owner in "ab"]
    held.lane.renew()
    assert [future.result(PATIENCE_S) for future in waiting] == ["a", "b"]
    assert not held.first.done()


def test_a_long_request_does_not_keep_the_others_waiting() -> None:
    lanes, go, began = Lanes(), threading.Event(), threading.Event()

    def hold() -> None:
        began.set()
        assert go.wait(PATIENCE_S)

    token = current_trace.set(RequestTrace("long", body_bytes=LONG_BYTES + 1))
    try:
        long = lanes.submit(hold)
        assert began.wait(PATIENCE_S)
        current_trace.set(RequestTrace("other", body_bytes=LONG_BYTES))
        assert lanes.submit(lambda: 7).result(PATIENCE_S) == 7
        assert not long.done()
    finally:
        go.set()
        current_trace.reset(token)
    long.result(PATIENCE_S)
