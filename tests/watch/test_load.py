"""Queues, times of stages and errors of the last minute, as the snapshot has them."""

from __future__ import annotations

import msgspec
import pytest

from dynamo_cli.messages.lifecycle import Phase, ProcessState, ProcessTable
from dynamo_cli.messages.request import Timeline
from dynamo_cli.messages.routing import RouterStats
from dynamo_cli.messages.telemetry import ProcessorStats, WorkerStats
from dynamo_cli.topology import Role
from dynamo_cli.units import MS_NS, SECOND_NS
from dynamo_cli.watch.failures import FailureLog, class_of
from dynamo_cli.watch.host import HostReport, ProcessUse
from dynamo_cli.watch.load_schema import ErrorsView, QueuesView, StageView
from dynamo_cli.watch.meter import Meter
from dynamo_cli.watch.queues import PendingAnswers
from dynamo_cli.watch.set_up import set_up
from dynamo_cli.watch.stages import WINDOW_S, StageTimes
from dynamo_cli.watch.state import TreeState
from dynamo_cli.watch.timelines import RequestRecord
from tests.dashboard.made import snapshot, worker


def record(started_ms: int, prefill_ms: int, status: int = 200, error: str = "") -> RequestRecord:
    """A request that waited for its engine and then had its prompt computed."""
    began, first = started_ms * MS_NS, (started_ms + prefill_ms) * MS_NS
    timeline = Timeline(
        received_ns=1 * MS_NS,
        prepared_ns=2 * MS_NS,
        routed_ns=3 * MS_NS,
        sent_ns=3 * MS_NS,
        scheduled_ns=began,
        first_token_ns=first,
        ended_ns=first,
    )
    return RequestRecord(
        "a", "/v1/completions", "tiny", status, 0, first, error, worker=0, timeline=timeline
    )


def test_requests_are_counted_at_the_box_where_they_wait() -> None:
    tree = TreeState(Meter(), ("tiny",), 0)
    tree.processor_stats(0, ProcessorStats(0, 0, requests=60, queries=7, preparing=20))
    tree.processor_stats(1, ProcessorStats(0, 0, requests=30, queries=2, preparing=5))
    tree.apply(WorkerStats(0, 8, 3, 0.5, 0, 0, 0, 0, 0, 1, 0), 0)
    tree.apply(WorkerStats(1, 8, 4, 0.5, 0, 0, 0, 0, 0, 1, 0), 0)
    tree.apply(RouterStats("kv", {}, {0: 1}, 0, waiting_requests=6), 0)
    seen = tree.snapshot(0, {}, 0, calls=PendingAnswers(105, 100, 70, 12.5))
    assert seen.queues == QueuesView(10, 25, 9, 0, 7, 70, 12.5)
    assert seen.queues.waiting == 51
    assert seen.calls == 105


def test_stages_have_percentiles_of_the_last_minute_in_order() -> None:
    times = StageTimes()
    for waited_ms in (13, 23, 103):
        times.add(record(waited_ms, 50))
    now_ns = SECOND_NS
    assert [view.stage for view in times.views(now_ns)] == [
        *("receive", "tokenize", "route", "queue", "prefill", "decode")
    ][1:]  # its arrival is at 0, which is no time
    queue = next(view for view in times.views(now_ns) if view.stage == "queue")
    assert queue == StageView("queue", 3, 0.02, 0.1)
    assert times.views(now_ns + WINDOW_S * SECOND_NS) == []
    assert sum(times.histograms["queue"].counts) == 3, "metrics are since the start"


@pytest.mark.parametrize(
    ("status", "error", "found"),
    [
        (200, "", ""),
        (200, "worker_lost", "failed"),  # in the middle of a stream
        (200, "slow_reader", "mistaken"),
        (499, "client_left", ""),
        (400, "InvalidRequest", "mistaken"),
        (404, "NotFoundError", "mistaken"),
        (429, "too_many_requests", "refused"),
        (503, "not_ready", "refused"),
        (503, "worker_lost", "failed"),
        (200, "overloaded", "failed"),  # in the middle of a stream: it was taken
        (503, "first_token_timeout", "failed"),
        (500, "internal_error", "failed"),
    ],
)
def test_an_error_is_the_servers_or_the_clients(status: int, error: str, found: str) -> None:
    assert class_of(status, error) == found


def test_a_report_that_is_older_than_the_calls_makes_no_negative_queue() -> None:
    tree = TreeState(Meter(), ("tiny",), 0)
    tree.processor_stats(0, ProcessorStats(0, 0, requests=60))
    assert tree.snapshot(0, {}, 0, calls=PendingAnswers(3, 3)).queues.frontend == 0


def test_what_a_process_uses_is_not_that_of_a_process_of_another_node() -> None:
    tree = TreeState(Meter(), ("tiny",), 0)
    here = ProcessState("worker 0", Role.WORKER, 0, Phase.READY, "", 7, 0, 0, 0)
    there = msgspec.structs.replace(here, name="worker 1", index=1, node="other")
    tree.apply(ProcessTable([here, there], serving=True, reason=""), 0)
    seen = tree.snapshot(0, {}, 0, HostReport({7: ProcessUse(4096, 1.0)}))
    assert [one.rss_bytes for one in seen.processes] == [4096, 0]


def test_gaps_of_streams_of_all_workers_and_of_none_are_counted_together() -> None:
    meter = Meter()
    for sender in (0, 1, None):
        meter.next_token(0.5, 0, sender)
    assert (sum(meter.itl.counts), meter.itl.total) == (3, 1.5)


def test_the_set_up_has_the_sizes_of_an_engine_that_is_ready() -> None:
    young = worker(0, num_blocks=0, block_size=0, max_num_seqs=0)
    told = set_up(snapshot(2, prefill_workers=1))
    assert (told.workers, told.prefill_workers, told.num_blocks, told.block_size) == (2, 1, 512, 32)
    some = msgspec.structs.replace(snapshot(2), workers=[young, worker(1)])
    assert (set_up(some).num_blocks, set_up(some).max_num_seqs) == (512, 8)


def test_errors_are_of_the_last_minute_by_kind() -> None:
    log = FailureLog()
    for status, error in ((200, ""), (404, "NotFoundError"), (404, "NotFoundError"), (500, "")):
        log.ended(status, error, SECOND_NS)
    log.ended(429, "too_many_requests", 40 * SECOND_NS)
    kinds = {"NotFoundError": 2, "other": 1, "too_many_requests": 1}
    refused = {"too_many_requests": 1}
    assert log.view(41 * SECOND_NS) == ErrorsView(5, 1, 1, 2, kinds, 0, {"other": 1}, refused)
    assert next(iter(log.view(41 * SECOND_NS).kinds)) == "NotFoundError"
    assert log.view(70 * SECOND_NS) == ErrorsView(1, 0, 1, 0, refused, refused_kinds=refused)


def test_a_kind_that_was_refused_and_failed_counts_in_both_classes() -> None:
    log = FailureLog()
    for status in (503, 200, 503):  # 200: its answer had begun
        log.ended(status, "not_ready", SECOND_NS)
    seen = log.view(SECOND_NS)
    assert (seen.kinds, seen.failed_kinds) == ({"not_ready": 3}, {"not_ready": 1})
    assert seen.refused_kinds == {"not_ready": 2}


def test_clients_that_left_are_counted_apart_from_errors() -> None:
    log = FailureLog()
    for status, error in ((200, ""), (499, "client_left"), (499, "client_left")):
        log.ended(status, error, SECOND_NS)
    assert log.view(SECOND_NS) == ErrorsView(3, left=2)
    assert log.view(70 * SECOND_NS) == ErrorsView()


def test_the_end_of_a_request_is_in_the_snapshot() -> None:
    meter = Meter()
    meter.ended(record(13, 50, 503, "worker_lost"))
    seen = TreeState(meter, ("tiny",), 0).snapshot(SECOND_NS, {}, 0)
    assert seen.recent_errors.kinds == {"worker_lost": 1}
    assert [view.stage for view in seen.stages][-1] == "decode"
    assert msgspec.json.decode(msgspec.json.encode(seen.queues), type=QueuesView) == seen.queues
