"""The last requests and the times of their stages."""

from __future__ import annotations

import msgspec
import pytest

from dynamo_cli.messages.request import Timeline, Usage
from dynamo_cli.messages.routing import Decisions, RoutingDecision
from dynamo_cli.watch.decisions import DecisionLog
from dynamo_cli.watch.timelines import KEPT, RequestRecord, RequestState, TimelineLog, running

MS = 1_000_000
START = 50 * MS
NOTHING = Timeline()


def record(name: str = "a", timeline: Timeline = NOTHING, first_byte_ms: int = 0) -> RequestRecord:
    return RequestRecord(
        request_id=name,
        endpoint="/v1/completions",
        model="tiny",
        status=200,
        arrival_ns=START,
        ended_ns=START + 40 * MS,
        finish_reason="stop",
        worker=1,
        processor=0,
        usage=Usage(10, 4, 3),
        first_byte_ns=first_byte_ms and START + first_byte_ms * MS,
        timeline=timeline,
    )


def at(milliseconds: int) -> int:
    return START + milliseconds * MS


REMOTE = Timeline(
    received_ns=at(1),
    prepared_ns=at(2),
    routed_ns=at(3),
    sent_ns=at(4),
    pushed_ns=at(5),
    leased_ns=at(6),
    prefilled_ns=at(16),
    queued_ns=at(17),
    scheduled_ns=at(18),
    first_token_ns=at(20),
    ended_ns=at(39),
    prefill_worker=2,
)


def test_stages_are_told_in_the_order_of_time_and_only_those_that_were() -> None:
    log = TimelineLog()
    log.add(record(timeline=REMOTE, first_byte_ms=21))
    log.add(record("b", Timeline(received_ns=at(1))))
    refused, remote = list(log.views(at(1050)))
    assert list(remote.stages_ms.items()) == [
        *(("arrival", 0), ("received", 1), ("prepared", 2), ("routed", 3), ("sent", 4)),
        *(("pushed", 5), ("leased", 6), ("prefilled", 16), ("queued", 17), ("scheduled", 18)),
        *(("first_token", 20), ("first_byte", 21), ("last_token", 39), ("ended", 40)),
    ]
    assert (remote.worker, remote.prefill_worker, remote.age_s) == (1, 2, 1.05)
    assert (remote.prompt_tokens, remote.cached_tokens, remote.output_tokens) == (10, 4, 3)
    assert list(refused.stages_ms) == ["arrival", "received", "ended"]


def test_the_first_token_is_timed_where_it_was_seen() -> None:
    assert record().ttft_ns is None
    assert record(timeline=REMOTE).ttft_ns == 20 * MS
    assert record(timeline=REMOTE, first_byte_ms=21).ttft_ns == 21 * MS


def test_the_newest_come_first_and_the_oldest_are_forgotten() -> None:
    log = TimelineLog()
    for number in range(KEPT + 5):
        log.add(record(f"r{number}"))
    log.add(record("r9"))
    assert [view.request_id for view in list(log.views(0, limit=3))] == ["r9", "r10004", "r10003"]
    assert len(list(log.views(0, request_id="r9"))) == 2
    assert list(log.views(0, request_id="r4")) == list(log.views(0, request_id="r5"))[1:] == []
    assert len(list(log.views(0))) == KEPT


def routed(worker: int | None) -> RoutingDecision:
    return RoutingDecision(
        *("engine-a", "a", worker, "kv", "cost", 70, 5, 0, 16, [], 0.0, 0.0, 0.0, at(3))
    )


@pytest.mark.parametrize(
    ("decision", "tokens", "begun", "state", "worker"),
    [
        (None, 0, False, RequestState.UNPLACED, None),
        (routed(None), 0, False, RequestState.UNPLACED, None),
        (routed(2), 0, False, RequestState.PREFILL, 2),
        (routed(2), 0, True, RequestState.DECODE, 2),
        (routed(2), 7, False, RequestState.DECODE, 2),
    ],
)
def test_the_state_of_a_running_request_is_what_has_happened_to_it(
    decision: RoutingDecision | None,
    tokens: int,
    begun: bool,
    state: RequestState,
    worker: int | None,
) -> None:
    young = msgspec.structs.replace(record(), worker=None, finish_reason="")
    view = running(young, decision, tokens, at(50), begun=begun)
    assert (view.state, view.worker, view.output_tokens) == (state, worker, tokens)
    chosen = decision is not None and decision.worker is not None
    assert view.stages_ms == {"arrival": 0.0} | ({"routed": 3.0} if chosen else {})
    assert view.age_s == 0.05


def test_a_running_stream_is_where_its_tokens_come_from() -> None:
    """The last decision can be older: without the router no further one is made."""
    view = running(record(first_byte_ms=21), routed(2), 7, at(50), begun=False)
    assert (view.state, view.worker, view.ttft_ms) == (RequestState.DECODE, 1, 21.0)


def test_the_last_decision_for_a_request_counts() -> None:
    log = DecisionLog()
    log.add(Decisions([routed(0), routed(3)], [], 0))
    assert {name: one.worker for name, one in log.latest({"a", "b"}).items()} == {"a": 3}


def test_only_requests_after_a_number_are_told_and_failures_are_failures() -> None:
    log = TimelineLog()
    for status, error in ((200, ""), (200, ""), (500, ""), (499, "client_left")):
        log.add(msgspec.structs.replace(record(), status=status, error=error))
    assert [view.number for view in log.views(at(60))] == [4, 3, 2, 1]
    assert [view.state for view in log.views(at(60), after=1)] == ["left", "failed", "done"]
