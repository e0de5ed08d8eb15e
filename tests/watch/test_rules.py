"""Each rule at its bounds: what is just enough for an alarm, and what is just too little."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from dynamo_cli.watch import judge
from dynamo_cli.watch.judge import Judge
from dynamo_cli.watch.load_schema import ErrorsView, HostView, QueuesView
from dynamo_cli.watch.oddities import HOLD_S, Oddity
from dynamo_cli.watch.past import Look, Past
from dynamo_cli.watch.rules import RULES
from dynamo_cli.watch.schema import Snapshot
from tests.dashboard.made import snapshot, worker

NOTHING_PAST = Past([Look(0.0, 0, 0, 0)])


def found(kind: str, seen: Snapshot, past: Past = NOTHING_PAST) -> str:
    """Text and advice of a rule; empty if it does not hold."""
    rule = next(rule for rule in RULES if rule.kind == kind)
    return " ".join(rule.find(seen, past) or ())


def waiting(*numbers: int, preemptions: int = 0) -> Past:
    """Numbers of waiting requests, one each second."""
    return Past([Look(float(at), count, preemptions, 0) for at, count in enumerate(numbers)])


def using(name: str, cores: float, demand: float | None = None) -> Snapshot:
    """A process uses so much; all others use nothing."""
    seen = snapshot()
    processes = [
        msgspec.structs.replace(one, cpu_cores=cores, cpu_demand=demand)
        if one.name.startswith(name)
        else one
        for one in seen.processes
    ]
    return msgspec.structs.replace(seen, processes=processes)


@pytest.mark.parametrize(
    ("queues", "raised"),
    [
        (QueuesView(workers=4, oldest_unstarted_s=2.0), True),
        (QueuesView(workers=3, oldest_unstarted_s=9.0), False),
        (QueuesView(workers=90, oldest_unstarted_s=1.9), False),
    ],
)
def test_saturation_needs_a_queue_and_a_wait(queues: QueuesView, raised: bool) -> None:
    assert bool(found("saturated", snapshot(queues=queues))) is raised


@pytest.mark.parametrize(
    ("numbers", "raised"),
    [
        ([*range(31)], True),
        ([count // 5 for count in range(31)], False),  # to 6 only
        ([*range(11), *range(11, 21), *[15] * 10], False),
        ([*[5] * 11, *range(5, 25)], False),
        ([*range(20)], False),  # nobody knows what was before
    ],
)
def test_a_queue_must_have_grown_all_the_time(numbers: list[int], raised: bool) -> None:
    assert bool(found("growing queue", snapshot(), waiting(*numbers))) is raised


@pytest.mark.parametrize(
    ("usage", "waits", "raised"), [(0.95, 1, True), (0.94, 9, False), (1.0, 0, False)]
)
def test_a_full_cache_is_bad_when_requests_wait_for_it(
    usage: float, waits: int, raised: bool
) -> None:
    full = worker(0, kv_cache_usage=usage, num_waiting_reqs=waits)
    assert bool(found("kv full", msgspec.structs.replace(snapshot(), workers=[full]))) is raised


def test_only_preemptions_of_this_time_count() -> None:
    past = [Look(0.0, 0, 7, 0), Look(30.0, 0, 11, 0)]
    assert not found("kv full", snapshot(), Past(past))
    past[-1] = Look(30.0, 0, 12, 0)
    assert "5 requests were preempted" in found("kv full", snapshot(), Past(past))


@pytest.mark.parametrize("kind", ["errors", "refusing"])
@pytest.mark.parametrize(
    ("count", "requests", "raised"), [(4, 4, False), (5, 500, True), (5, 501, False)]
)
def test_a_few_errors_or_a_small_share_are_no_alarm(
    kind: str, count: int, requests: int, raised: bool
) -> None:
    field = "failed_kinds" if kind == "errors" else "refused_kinds"
    kinds: Any = {field: {"some_kind": count - 1, "other_kind": 1}}
    text = found(kind, snapshot(recent_errors=ErrorsView(requests, mistaken=2, **kinds)))
    assert bool(text) is raised
    if raised:
        assert f"(some_kind {count - 1}, other_kind 1)" in text


def refused(*kinds: str, past: Past = NOTHING_PAST, **fields: Any) -> str:
    """The alarm when ten requests of each kind were refused."""
    errors = ErrorsView(10 * len(kinds), refused_kinds=dict.fromkeys(kinds, 10))
    return found("refusing", snapshot(recent_errors=errors, **fields), past)


@pytest.mark.parametrize(
    ("kind", "helps"),
    [
        ("too_many_requests", "--max-inflight"),
        ("overloaded", "ulimit -Hn"),
        ("draining", "shutting down"),
        ("not_ready", "before the server was ready"),
    ],
)
def test_the_remedy_is_for_the_kind_that_was_refused(kind: str, helps: str) -> None:
    others = {"--max-inflight", "ulimit -Hn", "shutting down", "before the server was ready"}
    told = refused(kind, serving=False)
    assert {help_ for help_ in others if help_ in told} == {helps}
    assert all(one in refused("draining", kind, serving=False) for one in ("shutting down", helps))


def test_requests_that_came_before_the_server_was_ready_are_no_alarm_later() -> None:
    assert not refused("not_ready")
    told = refused("not_ready", "too_many_requests")
    assert told.startswith("10 of 20")
    assert "ready" not in told


def looks(*seen: tuple[bool, int]) -> Past:
    """Whether the server served, and requests that were turned away since the start."""
    made = [Look(float(at), 0, 0, 0, 0, up, count) for at, (up, count) in enumerate(seen)]
    return Past(made)


def test_requests_that_no_process_takes_while_the_server_serves_are_an_alarm() -> None:
    told = refused("not_ready", past=looks((False, 4), (True, 4), (True, 9)))
    assert told.startswith("5 of 10")
    assert "the log says why" in told
    assert not refused("not_ready", past=looks((True, 0), (False, 4), (True, 9), (True, 9)))


def test_sleeping_engines_are_woken_and_lost_processes_explained() -> None:
    told = refused("asleep", serving=False)
    assert "/wake_up" in told
    assert "/health" not in told
    assert not refused("asleep"), "they are awake again"
    lost = [msgspec.structs.replace(one, restarts=1) for one in snapshot().processes]
    told = refused("not_ready", serving=False, processes=lost)
    assert "not ready any more" in told
    assert "The log says why" in told


@pytest.mark.parametrize(
    ("kind", "helps"),
    [
        ("worker_lost", "why each process ended"),
        ("first_token_timeout", "--first-token-timeout"),
        ("link_full", "whole core"),
        ("draining", "--drain-timeout"),
        ("asleep", "mode=wait"),
        ("some bug", "internal error"),
    ],
)
def test_the_remedy_is_for_the_kind_that_failed(kind: str, helps: str) -> None:
    errors = ErrorsView(9, failed_kinds={kind: 9})
    assert helps in found("errors", snapshot(recent_errors=errors))


@pytest.mark.parametrize("kind", ["saturated", "growing queue", "no first token"])
@pytest.mark.parametrize(
    ("box", "helps"),
    [
        ("frontend", "--processors"),
        ("processors", "--processors"),
        ("router", "--workers"),
        ("prefill_queue", "--prefill-workers"),
        ("workers", "--workers"),
    ],
)
def test_what_helps_depends_on_where_requests_wait(kind: str, box: str, helps: str) -> None:
    boxes: Any = {box: 30}
    queues = QueuesView(**boxes, unstarted=30, oldest_unstarted_s=40.0)
    grown = waiting(*range(31))
    assert helps in found(kind, snapshot(queues=queues), grown)
    down = found(kind, snapshot(queues=queues, serving=False), grown)
    assert "the server was ready" in down
    assert helps not in down


def test_more_workers_do_not_help_requests_that_an_engine_has_begun() -> None:
    queues = QueuesView(workers=1, unstarted=9, oldest_unstarted_s=40.0)
    told = found("no first token", snapshot(queues=queues))
    assert "--first-token-timeout" in told
    assert "--workers" not in told


def test_fewer_sequences_help_only_against_preemptions() -> None:
    workers = [worker(0, kv_cache_usage=1.0, num_waiting_reqs=3)]
    full = msgspec.structs.replace(snapshot(), workers=workers)
    assert "--max-num-seqs" not in found("kv full", full)
    past = Past([Look(0.0, 0, 0, 0), Look(30.0, 0, 9, 0)])
    assert "--max-num-seqs" in found("kv full", full, past)


def test_what_helps_a_record_depends_on_why_requests_are_missing_there() -> None:
    past = Past([Look(0.0, 0, 0, 0), Look(30.0, 0, 0, 3)])
    slow = found("record", snapshot(host=HostView(unrecorded={"queue_full": 3})), past)
    failed = found("record", snapshot(host=HostView(unrecorded={"write_failed": 3})), past)
    assert ("too slow" in slow, "free room" in slow) == (True, False)
    assert ("too slow" in failed, "free room" in failed) == (False, True)


def test_engines_may_use_whole_cores_and_more_processors_help_only_processors() -> None:
    assert not found("busy process", using("worker", 4.0))
    assert not found("busy process", using("router", 0.89))
    assert "--processors" in found("busy process", using("processor", 0.9))
    assert "second server" in found("busy process", using("router", 0.9))
    both = found("busy process", using("", 0.9))
    assert "--processors" in both
    assert "second server" in both


def test_cores_are_missing_where_a_process_gets_less_than_it_wants() -> None:
    assert not found("busy cores", using("worker", 0.1, 4.0))
    assert not found("busy cores", using("router", 0.45, 1.0))
    assert "0.44 of a core" in found("busy cores", using("router", 0.44, 0.9))


def test_snapshots_that_are_asked_for_often_are_not_all_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks = []

    def look(seen: Snapshot) -> list[Oddity]:
        looks.append(seen.uptime_s)
        return []

    one, asked = Judge(), [snapshot(at_s=10 + quarter / 4) for quarter in range(9)]
    monkeypatch.setattr(judge, "oddities", look)
    for seen in asked:
        one.judged(seen)
    assert looks == [10, 11, 12]


def test_the_strongest_remark_comes_first() -> None:
    one, seen = Judge(), snapshot()
    workers = [worker(0, num_waiting_reqs=4), worker(1, num_running_reqs=30)]
    for second in range(int(HOLD_S) + 1):
        seen = msgspec.structs.replace(snapshot(at_s=second), workers=workers)
        seen = one.judged(seen)
    assert [remark[:17] for remark in seen.odd] == ["worker 1: running", "worker 0: waiting"]
