"""The queries of `/dynamo/timeline`, `/dynamo/stream` and `/dynamo/record`, without a server."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import msgspec
import pytest

from dynamo_cli.errors import InvalidRequest
from dynamo_cli.frontend.status import inspect
from dynamo_cli.watch.moves import MoveStep
from dynamo_cli.watch.timelines import RequestRecord, TimelineLog, TimelineView
from tests.dashboard import eight

MOVED = MoveStep("worker 0", "worker 1", "died", 1, 2.0, 3.0)


def log_of(count: int) -> TimelineLog:
    log = TimelineLog()
    for number in range(1, count + 1):
        log.add(RequestRecord(f"ended-{number}", "/v1/completions", "tiny", 200, 0, number))
    return log


def running(_: int) -> list[TimelineView]:
    """Newest first, as the frontend gives them; the oldest has moved."""
    views = [eight.running(number) for number in (59, 58, 57)]
    return [*views[:2], msgspec.structs.replace(views[2], moves=[MOVED])]


def ask(log: TimelineLog, **query: str) -> list[str]:
    text = asyncio.run(inspect.timelines(log, running, query, 0))
    found: list[dict[str, Any]] = json.loads(text)["timelines"]
    return [one["request_id"] for one in found]


def test_requests_that_run_come_first_and_count() -> None:
    log = log_of(5)
    ran = ["run-0059", "run-0058", "run-0057"]
    assert ask(log) == [f"ended-{number}" for number in (5, 4, 3, 2, 1)]
    assert ask(log, state="running") == ran
    assert ask(log, state="all", limit="4") == [*ran, "ended-5"]
    assert ask(log, state="all", limit="2") == ran[:2]
    assert ask(log, state="running", limit="1") == ran[:1]
    assert ask(log, state="all", after="3") == [*ran, "ended-5", "ended-4"]
    assert ask(log, state="all", request_id="run-0058") == ["run-0058"]
    assert ask(log, state="all", moved="true") == ["run-0057"]
    assert ask(log, state="running", moved="false") == ran[:2]


def test_a_hundred_are_told_unless_more_are_asked_for() -> None:
    log = log_of(inspect.DEFAULT_LIMIT + 2 * inspect.PAGE)
    assert len(ask(log)) == inspect.DEFAULT_LIMIT
    many = ask(log, limit=str(inspect.DEFAULT_LIMIT + inspect.PAGE + 1))
    assert len(set(many)) == inspect.DEFAULT_LIMIT + inspect.PAGE + 1


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ({"limit": "0"}, "limit must be a number from 1 to"),
        ({"limit": str(inspect.KEPT + 1)}, "limit must be a number from 1 to"),
        ({"limit": "nan"}, "limit must be a number"),
        ({"after": "-1"}, "after must be a number from 0"),
        ({"state": "gone"}, "state must be one of ended, running, all; it is 'gone'."),
        ({"moved": "yes"}, "moved must be true or false"),
        ({"lmit": "1"}, "unknown query parameter 'lmit'"),
    ],
)
def test_wrong_queries_say_what_is_right(query: dict[str, str], says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        ask(log_of(1), **query)


def test_bounds_are_values_too() -> None:
    assert ask(log_of(1), limit="1", after="0") == ["ended-1"]
    assert ask(log_of(1), limit=str(inspect.KEPT)) == ["ended-1"]
    assert inspect.record_seconds({}) == 3600
    assert inspect.record_seconds({"seconds": "1"}) == 1
    assert inspect.record_seconds({"seconds": "604800"}) == 604800
    assert inspect.stream_interval_s({}) == 0.25
    assert inspect.stream_interval_s({"interval": "10"}) == 10
    for seconds in ("0.9", "604801"):
        with pytest.raises(InvalidRequest, match="seconds must be a number from 1 to 604800"):
            inspect.record_seconds({"seconds": seconds})
    for interval in ("0.2", "10.1"):
        with pytest.raises(InvalidRequest, match=r"interval must be a number from 0\.25 to 10"):
            inspect.stream_interval_s({"interval": interval})
