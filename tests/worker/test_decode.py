"""A worker and its processors: requests, outputs, refusals, load."""

from __future__ import annotations

import logging

import pytest

from dynamo_cli.errors import Asleep, DynamoError, InternalError, InvalidRequest
from dynamo_cli.messages.admin import Operate, Operated, Operation
from dynamo_cli.messages.request import (
    AbortRequests,
    CallUtility,
    EngineReady,
    OutputsLost,
    RequestRefused,
    UtilityAnswer,
)
from dynamo_cli.messages.telemetry import WorkerStats
from dynamo_cli.topology import ProcessId
from dynamo_cli.worker.operations import ABORTED, ASLEEP
from dynamo_cli.worker.process import REPORT_INTERVAL_S
from tests.worker.support import (
    FRONTEND,
    OTHER_PROCESSOR,
    PROCESSOR,
    QUEUE,
    ROUTER,
    WORKER,
    Around,
    gives,
    request,
    texts,
)


@pytest.mark.parametrize("peer", [PROCESSOR, ROUTER, FRONTEND])
def test_who_waits_for_the_engine_hears_that_it_is_up(
    monkeypatch: pytest.MonkeyPatch, peer: ProcessId
) -> None:
    """In each of its lives."""
    with Around(monkeypatch) as around:
        for _ in range(2):
            assert around.link(peer).heard(EngineReady) == [around.engine.ready()]


def test_each_processor_gets_its_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    with Around(monkeypatch, PROCESSOR, OTHER_PROCESSOR) as around:
        around[PROCESSOR].send(request("a"))
        around[OTHER_PROCESSOR].send(request("b"))
        around.engine.outputs = [(0, gives(b"for a")), (1, gives(b"for b"))]
        around.turn()
        assert texts(around[PROCESSOR].read()) == [b"for a"]
        assert texts(around[OTHER_PROCESSOR].read()) == [b"for b"]


@pytest.mark.parametrize("error", [InvalidRequest("it is wrong"), InternalError("it is broken")])
def test_what_the_engine_does_not_take_is_refused(
    monkeypatch: pytest.MonkeyPatch, error: DynamoError
) -> None:
    with Around(monkeypatch, PROCESSOR) as around:
        around.engine.refuses["a"] = error
        around[PROCESSOR].send(request("a"))
        refused = RequestRefused("a", error.message, error.http_status)
        assert around[PROCESSOR].read() == [refused]


def test_a_request_that_failed_alone_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with Around(monkeypatch, PROCESSOR) as around:
        around[PROCESSOR].send(request("a"))
        around.engine.failed = [(0, "a", InternalError("it is broken"))]
        around.turn()
        assert around[PROCESSOR].read() == [RequestRefused("a", "it is broken", 500)]


def test_a_processor_ends_its_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    with Around(monkeypatch, PROCESSOR) as around:
        for name in ("a", "b", "c"):
            around[PROCESSOR].send(request(name))
        around[PROCESSOR].send(AbortRequests(["a", "c", "never heard of"]))
        assert list(around.engine.running) == ["b"]


def test_requests_of_a_processor_that_is_gone_are_forgotten(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with Around(monkeypatch, PROCESSOR, OTHER_PROCESSOR) as around:
        around[PROCESSOR].send(request("a"))
        around[OTHER_PROCESSOR].send(request("b"))
        with caplog.at_level(logging.DEBUG):
            around[PROCESSOR].die()
        assert list(around.engine.running) == ["b"]
        assert "processor 0 is gone (killed): 1 of its requests end here" in caplog.text
        assert all(one.levelno < logging.INFO for one in caplog.records), "the supervisor warns"


@pytest.mark.parametrize("peer", [FRONTEND, ROUTER, QUEUE])
def test_requests_stay_when_another_peer_is_gone(
    monkeypatch: pytest.MonkeyPatch, peer: ProcessId
) -> None:
    with Around(monkeypatch, PROCESSOR, peer) as around:
        around[PROCESSOR].send(request("a"))
        around[peer].die()
        assert list(around.engine.running) == ["a"]


def test_a_processor_that_does_not_read_loses_its_requests_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with Around(monkeypatch, PROCESSOR, OTHER_PROCESSOR) as around:
        around[PROCESSOR].send(request("a"))
        around[PROCESSOR].send(request("b"))
        around[OTHER_PROCESSOR].send(request("c"))
        link = around.process._switchboard.links[PROCESSOR]
        take = link.send
        with monkeypatch.context() as full:
            full.setattr(
                link, "send", lambda payload, owed=False: owed and take(payload, owed=True)
            )
            around.engine.outputs = [(0, gives(b"lost")), (1, gives(b"for c"))]
            around.turn()
        assert around[PROCESSOR].read() == [OutputsLost(WORKER.index)]
        assert texts(around[OTHER_PROCESSOR].read()) == [b"for c"]
        assert list(around.engine.running) == ["c"]
        assert "2 of its requests are aborted" in caplog.text


def test_outputs_for_a_processor_that_is_gone_are_dropped(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with Around(monkeypatch, PROCESSOR) as around:
        around.engine.running["late"] = OTHER_PROCESSOR.index
        around.engine.outputs = [(OTHER_PROCESSOR.index, gives(b"late"))]
        around.turn()
        assert around[PROCESSOR].read() == []
        assert not caplog.records


def test_a_method_of_the_engine_can_be_called(monkeypatch: pytest.MonkeyPatch) -> None:
    with Around(monkeypatch, PROCESSOR) as around:
        around[PROCESSOR].send(CallUtility(7, "list_loras", []))
        assert around[PROCESSOR].read() == [UtilityAnswer(7, [b"list_loras"])]


def test_load_is_told_at_most_every_interval_while_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    with Around(monkeypatch, PROCESSOR, FRONTEND, ROUTER) as around:
        around.later(REPORT_INTERVAL_S)
        around[PROCESSOR].send(request("a"))
        for peer in (FRONTEND, ROUTER):
            around[peer].read()
        around.later(REPORT_INTERVAL_S / 2)
        assert around[ROUTER].heard(WorkerStats) == []
        around.later(REPORT_INTERVAL_S / 2)
        for peer in (FRONTEND, ROUTER):
            [told] = around[peer].heard(WorkerStats)
            assert (told.num_running_reqs, told.idle) == (1, False)
        assert around[PROCESSOR].heard(WorkerStats) == []


def test_the_end_of_the_load_is_told_at_once_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with Around(monkeypatch, PROCESSOR, FRONTEND) as around:
        around[PROCESSOR].send(request("a"))
        around[FRONTEND].read()
        around.engine.running.clear()
        around[PROCESSOR].send(AbortRequests(["a"]))
        [told] = around[FRONTEND].heard(WorkerStats)
        assert told.idle
        assert around.process._duty.idle_timeout_s() is None
        around.later(10 * REPORT_INTERVAL_S)
        assert around[FRONTEND].heard(WorkerStats) == []


def test_a_new_router_hears_of_the_load(monkeypatch: pytest.MonkeyPatch) -> None:
    with Around(monkeypatch) as around:
        around.turn(3)
        assert around.link(ROUTER).heard(WorkerStats) != []


def test_an_engine_that_sleeps_refuses_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    with Around(monkeypatch, PROCESSOR, FRONTEND) as around:
        around[FRONTEND].send(Operate(1, Operation.SLEEP))
        around[PROCESSOR].send(request("a"))
        refused = RequestRefused("a", ASLEEP, Asleep.http_status)
        assert around[PROCESSOR].read() == [refused]
        around[FRONTEND].send(Operate(2, Operation.WAKE_UP))
        around[PROCESSOR].send(request("b"))
        assert list(around.engine.running) == ["b"]


def test_an_engine_that_is_to_sleep_at_once_ends_what_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Around(monkeypatch, PROCESSOR, OTHER_PROCESSOR, FRONTEND) as around:
        around[PROCESSOR].send(request("a"))
        around[OTHER_PROCESSOR].send(request("b"))
        around[FRONTEND].send(Operate(1, Operation.SLEEP))
        assert around[PROCESSOR].read() == [RequestRefused("a", ABORTED, 503)]
        assert around[OTHER_PROCESSOR].read() == [RequestRefused("b", ABORTED, 503)]
        assert around.engine.asleep


def test_nobody_finds_a_sleeping_engine_healthy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its load says that it sleeps before the answer does."""
    with Around(monkeypatch, FRONTEND) as around:
        around[FRONTEND].send(Operate(1, Operation.SLEEP))
        first, second, *_ = around[FRONTEND].read()
        assert isinstance(first, WorkerStats)
        assert first.asleep
        assert second == Operated(1, result=True)


def test_what_waits_to_sleep_takes_no_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    with Around(monkeypatch, PROCESSOR, FRONTEND) as around:
        around[PROCESSOR].send(request("a"))
        around[FRONTEND].send(Operate(1, Operation.SLEEP, wait=True))
        around[PROCESSOR].send(request("b"))
        assert around[PROCESSOR].read() == [RequestRefused("b", ASLEEP, 503)]
        assert list(around.engine.running) == ["a"]


def test_a_worker_reports_its_load_before_it_first_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    with Around(monkeypatch) as around:
        assert around.process._duty.idle_timeout_s() == 0.0
        around.turn()
        assert around.process._duty.idle_timeout_s() is None
