"""Requests that went on elsewhere: totals, the last ones, gaps, and what is told of each."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from dynamo_cli.messages.request import Move, MoveReason
from dynamo_cli.messages.routing import Candidate, Decisions, Measured, RoutingDecision
from dynamo_cli.units import MS_NS, SECOND_NS
from dynamo_cli.watch.decisions import KEPT, DecisionLog
from dynamo_cli.watch.meter import Meter
from dynamo_cli.watch.moves import NOT_MOVED_MEMORY_S, RECENT, MoveLog, merged, step
from dynamo_cli.watch.state import TreeState
from dynamo_cli.watch.timelines import TimelineLog

from .test_timelines import START, at, record

DIED = Move("worker", 0, 1, MoveReason.DIED, 12, at(10), at(45))


def moved(**changes: Any) -> Move:
    """What a processor says at once, when nobody knows yet when the request goes on."""
    return msgspec.structs.replace(DIED, **({"resumed_ns": 0} | changes))


def test_every_reason_is_counted_and_there_from_the_start() -> None:
    log = MoveLog()
    assert log.view(0).moved == log.view(0).not_moved == dict.fromkeys(map(str, MoveReason), 0)
    log.add("a", moved(), 0)
    log.add("a", moved(reason=MoveReason.DRAINED), 0)
    log.add("a", moved(target=None), 0)
    view = log.view(0)
    assert {reason: n for reason, n in view.moved.items() if n} == {"died": 1, "drained": 1}
    assert {reason: n for reason, n in view.not_moved.items() if n} == {"died": 1}


def test_the_last_ones_are_there_in_full_the_newest_first_and_bounded() -> None:
    log = MoveLog()
    for number in range(RECENT + 5):
        log.add(f"api-{number}", moved(), number * SECOND_NS)
    log.add("last", moved(role="processor", source=1, target=None), 100 * SECOND_NS)
    recent = log.view(103 * SECOND_NS).recent
    assert len(recent) == RECENT
    last, before = recent[:2]
    assert (last.request_id, last.source, last.target, last.age_s) == (
        *("last", "processor 1", None, 3.0),
    )
    assert (before.source, before.target, before.role) == ("worker 0", "worker 1", "worker")
    assert (before.reason, before.output_tokens) == ("died", 12)
    assert msgspec.to_builtins(before).keys() >= {"from", "to"}, "the names in JSON"


def test_gaps_are_known_when_requests_have_ended() -> None:
    log = MoveLog()
    assert log.view(0).longest_gap_s is None
    never = msgspec.structs.replace(DIED, resumed_ns=0)
    long = msgspec.structs.replace(DIED, resumed_ns=at(2010))
    log.ended((DIED, never, long))
    assert (sum(log.gaps.counts), log.gaps.total) == (2, pytest.approx(2.035))
    assert log.view(0).longest_gap_s == 2.0


def test_a_request_that_found_no_place_raises_an_alarm_for_a_while() -> None:
    meter = Meter()
    tree = TreeState(meter, ("tiny",), 0)
    meter.moves.add("a", moved(), 0)
    assert tree.snapshot(0, {}, 0).alarms == []
    meter.moves.add("a", moved(target=None), 0)
    (alarm,) = tree.snapshot(SECOND_NS, {}, 0).alarms
    assert alarm.kind == "not moved"
    assert alarm.text.startswith("a request failed in the last 10 minutes")
    assert "--migration-timeout" in alarm.advice
    assert tree.snapshot((NOT_MOVED_MEMORY_S + 1) * SECOND_NS, {}, 0).alarms == []


def test_a_snapshot_has_them() -> None:
    meter = Meter()
    meter.moves.add("a", moved(), 0)
    view = TreeState(meter, ("tiny",), 0).snapshot(SECOND_NS, {}, 0).moves
    assert (view.moved["died"], view.recent[0].age_s) == (1, 1.0)


# -- one request ---------------------------------------------------------------------------------


def test_what_was_heard_and_what_the_end_tells_are_the_same_moves() -> None:
    heard = moved()
    assert merged([], (DIED,)) == merged([heard], (DIED,)) == (DIED,)
    assert merged([heard, heard], (DIED, DIED)) == (DIED, DIED), "two answers of one request"
    assert merged([heard, heard], (DIED,)) == (DIED, heard)


def test_moves_that_only_a_dead_processor_knew_are_not_lost() -> None:
    first = moved(left_ns=at(5))
    processor = Move("processor", 0, 1, MoveReason.DIED, 12, at(20))
    last = msgspec.structs.replace(DIED, source=1, target=0, left_ns=at(30))
    assert merged([first, processor], (last,)) == (first, processor, last)


def test_a_timeline_has_each_move_as_a_step() -> None:
    log = TimelineLog()
    lost = Move("worker", 1, None, MoveReason.STALLED, 20, at(50))
    log.add(msgspec.structs.replace(record("moved"), moves=(DIED, lost)))
    log.add(record("stayed"))
    (view,) = log.views(0, moved=True)
    assert view.request_id == "moved"
    assert view.moves == [step(DIED, START), step(lost, START)]
    first, last = view.moves
    assert (first.source, first.target, first.reason) == ("worker 0", "worker 1", "died")
    assert (first.output_tokens, first.at_ms, first.gap_ms) == (12, 10.0, 35.0)
    assert (last.target, last.gap_ms) == (None, None)
    assert [one.request_id for one in log.views(0, moved=False)] == ["stayed"]
    assert len(list(log.views(0))) == 2


# -- decisions -----------------------------------------------------------------------------------


def decided(name: str, worker: int, **moved: Any) -> RoutingDecision:
    plain = RoutingDecision(
        *(name, f"api-{name}", worker, "kv", "cost", 70, 3, 2, 32),
        *([Candidate(worker, 5.0, 2, {})], 1.0, 0.0, 9.0, 0),
    )
    return msgspec.structs.replace(plain, **moved)


def test_a_request_that_moves_has_a_decision_for_each_of_its_workers() -> None:
    log = DecisionLog()
    log.add(Decisions([decided("a", 0), decided("b", 0)], [Measured("a", 32)], 0))
    again = decided("a", 1, moved="died", moved_from=0, output_tokens=12)
    log.add(Decisions([again], [Measured("a", 64)], 0))
    second, other, first = log.views(0)
    assert (second.worker, second.moved, second.moved_from, second.output_tokens) == (
        *(1, "died", 0, 12),
    )
    assert (first.worker, first.moved, first.moved_from, first.output_tokens) == (0, "", None, 0)
    assert (first.measured_tokens, second.measured_tokens) == (32, 64)
    assert list(log.views(0, after=2)) == [second], "followers of the stream hear of it"
    assert list(log.views(0, moved=True)) == [second]
    assert list(log.views(0, moved=False)) == [other, first]
    assert list(log.views(0, request_id="api-a")) == [second, first]


def test_what_is_known_of_a_moved_request_is_forgotten_with_its_last_decision() -> None:
    log = DecisionLog()
    log.add(Decisions([decided("a", 0)], [], 0))
    log.add(Decisions([decided("a", 1, moved="died", moved_from=0)], [], 0))
    log.add(Decisions([decided(str(number), 0) for number in range(KEPT - 1)], [], 0))
    log.add(Decisions([], [Measured("a", 64)], 0))
    assert [one.measured_tokens for one in log.views(0, request_id="a")] == [64]
    log.add(Decisions([decided("last", 0)], [Measured("a", 96)], 0))
    assert list(log.views(0, request_id="a")) == []
    assert len(log._latest) == KEPT


def test_a_gap_is_never_negative() -> None:
    late = msgspec.structs.replace(DIED, left_ns=at(50))
    assert step(late, START).gap_ms == 0.0
    assert step(DIED, START - MS_NS).at_ms == 11.0
