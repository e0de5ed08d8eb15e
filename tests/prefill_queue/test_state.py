"""The prefill queue: one test for each rule."""

from __future__ import annotations

from typing import Any

import pytest

from dynamo_cli.prefill_queue.jobs import (
    Abandoned,
    FailedJob,
    Job,
    JobOutcome,
    JobReason,
    QueueLimits,
    QueueView,
    Returned,
    Room,
)
from dynamo_cli.prefill_queue.state import MAX_WAITS, PrefillQueue

LIMITS = QueueLimits(max_jobs=4, max_attempts=3, lease_ns=100, affinity_ns=10)
NEVER = 10**18
ROOM = 10**9


def job(job_id: str, priority: int = 0, **more: Any) -> Job[bytes]:
    fields: dict[str, Any] = {
        "worker": 0,
        "prompt_tokens": 5,
        "deadline_ns": NEVER,
        "put_ns": 0,
        "holder": None,
    }
    return Job(job_id, priority=priority, payload=job_id.encode(), **{**fields, **more})


def queue(*jobs: Job[bytes], limits: QueueLimits = LIMITS) -> PrefillQueue[bytes]:
    fresh: PrefillQueue[bytes] = PrefillQueue(limits)
    assert [fresh.put(one) for one in jobs] == [None] * len(jobs)
    return fresh


def names(jobs: list[Job[bytes]]) -> str:
    return "".join(job.job_id for job in jobs)


def lease(state: PrefillQueue[bytes], holder: int = 0, jobs: int = 9, now: int = 0) -> str:
    return names(state.lease(holder, jobs, ROOM, now))


def test_each_job_goes_to_whom_has_the_fewest_tokens_to_compute() -> None:
    tokens = {"a": 50, "b": 10, "c": 10, "d": 10, "e": 40, "f": 1}
    state = queue(
        *(job(name, prompt_tokens=count) for name, count in tokens.items()),
        limits=QueueLimits(),
    )
    rooms = {0: Room(9, 100), 1: Room(2, 100), 2: Room(9, 15)}
    shared = [(holder, one.job_id) for holder, one in state.share(rooms, 0)]
    assert shared == [(0, "a"), (1, "b"), (2, "c"), (1, "d"), (0, "e"), (2, "f")]
    assert [(room.jobs, room.tokens) for room in rooms.values()] == [(7, 10), (0, 80), (7, 4)]


def test_the_life_of_a_job() -> None:
    a = job("a", put_ns=3)
    state = queue(a)
    assert state.view(5) == QueueView(1, 5, 0, 0, oldest_age_ns=2)
    assert state.lease(0, 1, ROOM, 7) == [a]
    assert state.view(7) == QueueView(0, 0, 1, 5, oldest_age_ns=0)
    assert state.acknowledge("a", 0)
    assert state.view(7) == QueueView(0, 0, 0, 0, oldest_age_ns=0)
    assert state.ended == {"done": 1}
    assert state.taken == 1
    assert state.take_waits() == [4]
    assert state.take_waits() == []


@pytest.mark.parametrize(
    ("priorities", "order"), [([0, 0, 0], "abc"), ([1, 0, 1], "bac"), ([2, 1, -1], "cba")]
)
def test_jobs_come_by_priority_and_then_as_they_came(priorities: list[int], order: str) -> None:
    state = queue(*map(job, "abc", priorities))
    assert lease(state) == order


@pytest.mark.parametrize(
    ("jobs", "tokens", "taken"),
    [
        (0, ROOM, ""),
        (2, ROOM, "ab"),
        (9, 10, "ab"),  # exactly the tokens there is room for
        (9, 9, "a"),
        (9, 15, "ab"),  # "c" would fit, but no job overtakes the large one
        (9, 0, "a"),  # a prefill worker without a job gets one of any size
    ],
)
def test_room_is_in_jobs_and_in_tokens(jobs: int, tokens: int, taken: str) -> None:
    state = queue(job("a"), job("b"), job("large", prompt_tokens=50), job("c"))
    assert names(state.lease(0, jobs, tokens, 0)) == taken


def test_a_job_that_is_too_large_comes_when_its_holder_has_nothing_else() -> None:
    state = queue(job("a"), job("b", prompt_tokens=50), job("c"))
    assert names(state.lease(0, 9, 10, 0)) == "a"
    assert names(state.lease(0, 9, 10, 0)) == ""
    assert state.acknowledge("a", 0)
    assert names(state.lease(0, 9, 10, 0)) == "b"


def test_a_job_that_is_not_taken_has_a_reason() -> None:
    state = queue(job("a"), job("b"), job("c"))
    assert state.put(job("a")) is JobReason.DUPLICATE
    assert lease(state, jobs=1) == "a"
    assert state.put(job("a")) is JobReason.DUPLICATE
    assert state.put(job("d")) is None
    assert state.put(job("e")) is None
    assert state.put(job("f")) is JobReason.FULL
    assert state.refused == {"duplicate": 2, "full": 1}
    assert state.taken == 5
    assert state.acknowledge("a", 0)
    assert state.cancel("b") == []
    assert state.put(job("a")) is None


def test_a_job_waits_for_the_holder_of_its_prefix() -> None:
    state = queue(job("a", put_ns=5, holder=1), job("b"))
    assert lease(state, holder=0, now=14) == "b"
    assert lease(state, holder=0, now=15) == "a"


def test_a_job_goes_to_the_holder_of_its_prefix_in_its_turn() -> None:
    state = queue(job("a"), job("b", holder=1), job("c", -1), job("d", holder=2))
    assert lease(state, holder=1) == "cab"


def test_nobody_waits_for_a_holder_that_is_gone() -> None:
    state = queue(job("a", holder=1), job("b"), job("c", holder=1))
    assert lease(state, holder=1, jobs=1) == "a"
    assert state.holder_gone(1) == [Returned("a", 1)]
    assert lease(state, holder=0) == "abc"


def test_nobody_waits_for_a_holder_that_is_stuck() -> None:
    state = queue(job("a", holder=1), limits=QueueLimits(lease_ns=5, affinity_ns=1000))
    assert lease(state, holder=1) == "a"
    state.expire(5)
    assert lease(state, holder=0, now=5) == "a"


def test_what_is_said_of_jobs_of_others_is_counted() -> None:
    state = queue(job("a"))
    assert not state.acknowledge("a", 0)
    assert lease(state, holder=1) == "a"
    assert not state.acknowledge("a", 0)
    assert state.refuse("a", 0, "engine") == []
    assert not state.acknowledge("z", 0)
    assert state.cancel("z") == []
    assert state.renew(0, ["a", "z"], 0) == [Abandoned("a", 0), Abandoned("z", 0)]
    assert state.ignored == {"not_holder": 4, "unknown": 3}
    assert state.acknowledge("a", 1)
    assert not state.acknowledge("a", 1)


def test_a_job_that_its_holder_cannot_do_fails() -> None:
    state = queue(job("a", worker=7))
    lease(state)
    assert state.refuse("a", 0, "engine") == [FailedJob("a", 7, "engine")]
    assert state.ended == {"engine": 1}
    assert state.view(0) == QueueView(0, 0, 0, 0, 0)


def test_jobs_of_a_dead_holder_come_back_to_the_front_in_their_order() -> None:
    state = queue(job("a"), job("b", 1), job("c"), job("d"))
    assert lease(state, jobs=2) == "ac"
    assert state.put(job("e")) is None
    assert state.put(job("f")) is None
    assert state.holder_gone(0) == [Returned("a", 1), Returned("c", 1)]
    assert state.returned == {"holder_gone": 2}
    assert state.depth_jobs == 6  # returned jobs are never refused
    assert lease(state, holder=1) == "acdefb"
    assert state.holder_gone(0) == []


@pytest.mark.parametrize(
    ("break_off", "told"),
    [
        (lambda state: state.holder_gone(0), []),
        (lambda state: state.expire(100), [Abandoned("a", 0)]),
    ],
)
def test_a_job_has_so_many_attempts(break_off: object, told: list[JobOutcome]) -> None:
    assert callable(break_off)
    state = queue(job("a", worker=7))
    for attempts in (1, 2):
        assert lease(state) == "a"
        assert break_off(state) == [Returned("a", attempts), *told]
    assert lease(state) == "a"
    assert break_off(state) == [FailedJob("a", 7, "attempts"), *told]
    assert state.ended == {"attempts": 1}
    assert state.view(0) == QueueView(0, 0, 0, 0, 0)


def test_a_lease_lasts_while_it_is_renewed() -> None:
    state = queue(job("a"), job("b"))
    assert lease(state) == "ab"
    assert state.expire(99) == []
    assert state.renew(0, ["a"], 99) == []
    assert state.expire(100) == [Returned("b", 1), Abandoned("b", 0)]
    assert state.expire(198) == []
    assert state.expire(199) == [Returned("a", 1), Abandoned("a", 0)]
    assert state.returned == {"lease_expired": 2}
    assert lease(state, holder=1, now=200) == "ab"


def test_a_deadline_ends_jobs_that_wait_and_jobs_that_are_leased() -> None:
    state = queue(job("a", deadline_ns=50), job("b", deadline_ns=20, worker=1), job("c"))
    assert lease(state, jobs=1) == "a"
    assert state.expire(19) == []
    assert state.expire(20) == [FailedJob("b", 1, "deadline")]
    assert state.expire(50) == [FailedJob("a", 0, "deadline"), Abandoned("a", 0)]
    assert state.ended == {"deadline": 2}
    assert lease(state) == "c"


def test_a_deadline_goes_before_the_end_of_a_lease() -> None:
    state = queue(job("a", deadline_ns=100))
    lease(state)
    assert state.expire(100) == [FailedJob("a", 0, "deadline"), Abandoned("a", 0)]
    assert state.returned == {}


def test_a_cancelled_job_is_dropped_and_its_holder_told() -> None:
    state = queue(job("a"), job("b"))
    lease(state, holder=3, jobs=1)
    assert state.cancel("a") == [Abandoned("a", 3)]
    assert state.cancel("b") == []
    assert state.ended == {"cancelled": 2}
    assert state.view(0) == QueueView(0, 0, 0, 0, 0)


def test_jobs_of_a_dead_decode_worker_are_dropped() -> None:
    state = queue(job("a", worker=1), job("b"), job("c", worker=1, holder=2), job("d"))
    lease(state, holder=3, jobs=2)
    assert state.worker_gone(1) == [Abandoned("a", 3)]
    assert state.ended == {"worker_gone": 2}
    assert state.view(0) == QueueView(1, 5, 1, 5, 0)
    assert lease(state, holder=2) == "d"


def test_without_prefill_workers_nothing_waits() -> None:
    state = queue(job("a"), job("b", holder=1, worker=2))
    gone = JobReason.NO_PREFILL_WORKER
    assert state.no_holders() == [FailedJob("a", 0, gone), FailedJob("b", 2, gone)]
    assert state.ended == {gone: 2}
    assert state.depth_jobs == 0


def test_the_oldest_job_is_the_oldest_that_waits() -> None:
    state = queue(job("a", 1, put_ns=10), job("b", put_ns=20), job("c", put_ns=15))
    assert state.view(30).oldest_age_ns == 20
    lease(state, jobs=3)
    state.cancel("a")
    assert state.view(30).oldest_age_ns == 0
    state.holder_gone(0)
    assert state.view(30).oldest_age_ns == 15


def test_wait_times_that_nobody_takes_are_bounded_and_counted() -> None:
    state = queue()
    for number in range(MAX_WAITS + 3):
        state.put(job("a"))
        lease(state, now=number)
        state.acknowledge("a", 0)
    assert state.waits_dropped == 3
    assert state.take_waits() == list(range(3, MAX_WAITS + 3))


# -- machines ----------------------------------------------------------------------------------


def taken(state: PrefillQueue[bytes], machine: int, holder: int = 0, now: int = 0) -> str:
    return names(state.lease(holder, 9, ROOM, now, machine))


def test_a_job_that_stays_on_its_machine_is_never_taken_elsewhere() -> None:
    state = queue(job("a", machine=1, stays=True), job("b", machine=2, stays=True), job("c"))
    assert (state.depth_on(1), state.depth_on(2)) == (1, 1)
    assert taken(state, machine=2, now=NEVER - 1) == "bc"
    assert (state.depth_on(1), state.depth_on(2)) == (1, 0)
    assert taken(state, machine=1, holder=1) == "a"


def test_a_returned_job_stays_on_its_machine_too() -> None:
    state = queue(job("a", machine=1, stays=True, holder=7))
    assert taken(state, machine=1, holder=7) == "a"
    assert state.holder_gone(7) == [Returned("a", 1)]
    assert taken(state, machine=2, holder=2, now=1000) == ""
    assert state.depth_on(1) == 1
    assert taken(state, machine=1, holder=1) == "a"


def test_after_its_first_holder_a_job_goes_to_others_of_its_machine() -> None:
    state = queue(job("a", machine=1, stays=True, holder=7))
    assert taken(state, machine=1, holder=1, now=9) == ""
    assert taken(state, machine=2, holder=2, now=11) == ""
    assert taken(state, machine=1, holder=1, now=11) == "a"


def test_a_job_that_may_leave_goes_to_its_machine_first_and_then_to_any() -> None:
    state = queue(job("a", machine=1), job("b", machine=1))
    assert taken(state, machine=2, holder=2, now=9) == ""
    assert names(state.lease(1, 1, ROOM, 9, 1)) == "a"
    assert taken(state, machine=2, holder=2, now=11) == "b"


def test_jobs_of_machines_without_prefill_workers_fail_if_they_must_stay() -> None:
    stays, leaves = job("stays", machine=1, stays=True), job("leaves", machine=1)
    held = job("held", machine=1, stays=True, holder=4)
    state = queue(stays, leaves, job("other", machine=2, stays=True), held)
    assert state.lease(4, 1, ROOM, 0, 1) == [stays]
    assert state.only_on({1, 2}) == []
    state.holder_gone(4)
    failed = state.only_on({2})
    assert failed == [FailedJob(one, 0, JobReason.NO_PREFILL_WORKER) for one in ("stays", "held")]
    assert state.view(0).depth_jobs == 2
