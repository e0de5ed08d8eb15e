"""The loop of the prefill queue over real links, whose other ends the test plays."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace

import msgspec
import pytest

from dynamo_cli.config import PrefillQueueConfig
from dynamo_cli.ipc.codec import encode
from dynamo_cli.messages.lifecycle import Phase, PhaseChange, Stop
from dynamo_cli.messages.prefill import (
    CancelJob,
    DropJob,
    Enlisted,
    JobEnded,
    JobFailed,
    PrefillQueueStats,
    PullJobs,
    PushJob,
    QueueState,
    RunJob,
)
from dynamo_cli.prefill_queue import process
from dynamo_cli.prefill_queue.jobs import QueueLimits
from dynamo_cli.prefill_queue.process import Queue
from dynamo_cli.topology import FRONTEND, QUEUE, ProcessId, Role
from dynamo_cli.units import SECOND_NS
from tests.ipc.peer import Middle, Peer, of

WORKER = ProcessId(Role.WORKER, 0)
ONE, TWO = ProcessId(Role.PREFILL_WORKER, 0), ProcessId(Role.PREFILL_WORKER, 1)
ROOM = 10_000
"""Tokens: more than all jobs of a test have."""

HEARD = DropJob | Enlisted | JobFailed | PrefillQueueStats | QueueState | RunJob


class Scene(Middle[Queue]):
    """The queue, and the processes around it."""

    def __init__(self, alarm_s: float = 5.0, *, within_machine: bool = False) -> None:
        config = PrefillQueueConfig(alarm_s, within_machine)
        super().__init__(QUEUE, partial(Queue, QUEUE, config), HEARD)

    def die(self, peer: Peer) -> None:
        """Tell the queue, as the supervisor would, that a process is gone."""
        peer.die()
        self.turn()


@pytest.fixture
def scene() -> Iterator[Scene]:
    scene = Scene()
    yield scene
    scene.close()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The clock of the queue, which stands still; a test sets `now_ns`."""
    clock = SimpleNamespace(now_ns=time.monotonic_ns(), monotonic=time.monotonic)
    clock.monotonic_ns = lambda: clock.now_ns
    monkeypatch.setattr(process, "time", clock)
    return clock


def push(job_id: str) -> PushJob:
    """A job of 80 tokens, since 20 of 100 are in the cache of the decode worker."""
    return PushJob(job_id, 100, 20, None, 0, time.monotonic_ns() + 60 * SECOND_NS, b"", [])


def test_a_job_goes_to_a_prefill_worker_and_is_counted_when_it_has_ended(scene: Scene) -> None:
    frontend, worker, one = (scene.peer(process) for process in (FRONTEND, WORKER, ONE))
    one.send(PullJobs(1, ROOM, []))
    scene.turn()
    assert worker.take()[-1] == QueueState(0, 1)
    assert one.take() == [Enlisted()]
    job = push("a")
    worker.send(job)
    scene.turn()
    assert one.take() == [RunJob(0, job)]
    assert worker.take() == [QueueState(0, 1)], "workers add what they push to the last depth"
    one.send(JobEnded("a"))
    scene.process._report_due_s = 0.0
    scene.turn()
    stats = of(PrefillQueueStats, frontend.take())[-1]
    assert (stats.taken, stats.ended, stats.depth_jobs, len(stats.waits_s)) == (
        1,
        {"done": 1},
        0,
        1,
    )
    assert worker.take() == []


def test_a_prefill_worker_gets_what_it_has_room_for(scene: Scene) -> None:
    worker, one = scene.peer(WORKER), scene.peer(ONE)
    one.send(PullJobs(9, 160, []))  # two jobs
    for job_id in "abc":
        worker.send(push(job_id))
    scene.turn()
    scene.turn()
    assert [message.job.job_id for message in one.take() if isinstance(message, RunJob)] == [
        "a",
        "b",
    ]
    assert worker.take()[-1] == QueueState(1, 1)
    one.send(PullJobs(1, 80, ["a", "b"]))
    scene.turn()
    assert [message.job.job_id for message in one.take() if isinstance(message, RunJob)] == ["c"]


def test_without_prefill_workers_a_job_fails_at_once(scene: Scene) -> None:
    worker = scene.peer(WORKER)
    worker.send(push("a"))
    scene.turn()
    assert of(JobFailed, worker.take()) == [JobFailed("a", "no_prefill_worker")]


def test_a_job_that_is_put_twice_is_done_once_and_its_worker_not_told_of_a_failure(
    scene: Scene,
) -> None:
    worker, one = scene.peer(WORKER), scene.peer(ONE)
    one.send(PullJobs(9, ROOM, []))
    for _ in range(2):
        worker.send(push("a"))
    scene.turn()
    assert len(of(RunJob, one.take())) == 1
    assert of(JobFailed, worker.take()) == []


def test_a_job_of_a_dead_prefill_worker_goes_to_another(scene: Scene) -> None:
    worker, one = scene.peer(WORKER), scene.peer(ONE)
    one.send(PullJobs(1, ROOM, []))
    job = push("a")
    worker.send(job)
    scene.turn()
    two = scene.peer(TWO)
    two.send(PullJobs(1, ROOM, []))
    scene.turn()
    assert of(RunJob, two.take()) == []
    scene.die(one)
    assert of(RunJob, two.take()) == [RunJob(0, job)]
    assert worker.take()[-1] == QueueState(0, 1)


@pytest.mark.parametrize("how", ["cancelled", "dead"])
def test_a_job_that_nobody_wants_is_dropped_where_it_runs(scene: Scene, how: str) -> None:
    worker, one = scene.peer(WORKER), scene.peer(ONE)
    one.send(PullJobs(1, ROOM, []))
    worker.send(push("a"))
    scene.turn()
    one.take()
    if how == "cancelled":
        worker.send(CancelJob("a"))
        scene.turn()
    else:
        scene.die(worker)
    assert one.take() == [DropJob("a")]


def test_a_job_that_its_prefill_worker_refuses_fails_with_its_reason(scene: Scene) -> None:
    worker, one = scene.peer(WORKER), scene.peer(ONE)
    one.send(PullJobs(1, ROOM, []))
    worker.send(push("a"))
    scene.turn()
    one.send(JobEnded("a", "no_room"))
    scene.turn()
    assert of(JobFailed, worker.take()) == [JobFailed("a", "no_room")]


def test_a_job_fails_when_its_deadline_is_over(scene: Scene) -> None:
    worker, one = scene.peer(WORKER), scene.peer(ONE)
    one.send(PullJobs(0, 0, []))
    worker.send(push("a"))
    scene.turn()
    assert of(JobFailed, worker.take()) == []
    worker.send(msgspec.structs.replace(push("late"), deadline_ns=time.monotonic_ns()))
    scene.turn()
    assert of(JobFailed, worker.take()) == [JobFailed("late", "deadline")]


def test_a_prefill_worker_is_enlisted_only_when_every_decode_worker_knows_of_it(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, one = scene.peer(WORKER), scene.peer(ONE)
    worker.take()
    monkeypatch.setattr("dynamo_cli.ipc.link.MAX_PENDING_BYTES", 0)
    link = scene.process._switchboard.links[WORKER]
    for filler in (JobFailed("", "x" * 1000), QueueState(9, 9)):
        while link.send(encode(filler)):
            pass
    one.send(PullJobs(1, ROOM, []))
    scene.turn()
    assert one.take() == []
    monkeypatch.undo()
    worker.take()
    one.send(PullJobs(1, ROOM, []))
    scene.turn()
    assert one.take() == [Enlisted()]
    assert worker.take()[-1] == QueueState(0, 1)


def test_a_queue_that_is_stuck_reports_that() -> None:
    scene = Scene(alarm_s=0.0)
    frontend, worker, one = (scene.peer(process) for process in (FRONTEND, WORKER, ONE))

    def report() -> bool:
        scene.process._report_due_s = 0.0
        scene.process._changed = True
        scene.turn()
        stats = of(PrefillQueueStats, frontend.take())[-1]
        return stats.alarm

    one.send(PullJobs(0, 0, []))
    worker.send(push("a"))
    assert [report(), report()] == [True, True]
    one.send(PullJobs(1, ROOM, []))
    assert [report(), report()] == [False, False]
    worker.send(push("b"))
    assert report()
    scene.close()


def test_it_reports_that_it_is_ready_and_ends_when_it_is_told_to(scene: Scene) -> None:
    scene.control.send(Stop())
    scene.process.run()
    assert list(scene.control.receive()) == [(PhaseChange(Phase.READY), [])]


def jobs_of(peer: Peer) -> list[str]:
    return [message.job.job_id for message in of(RunJob, peer.take())]


def test_where_blocks_go_through_memory_a_job_stays_on_its_machine() -> None:
    scene = Scene(within_machine=True)
    worker, one, two = (scene.peer(process) for process in (WORKER, ONE, TWO))
    one.send(PullJobs(9, ROOM, [], machine=1))
    two.send(PullJobs(9, ROOM, [], machine=2))
    scene.turn()
    assert worker.take()[-1] == QueueState(0, 2, {1: (0, 1), 2: (0, 1)})
    for job_id, machine, holder in (("a", 1, None), ("b", 2, None), ("c", 2, 0), ("d", 3, None)):
        job = msgspec.structs.replace(push(job_id), machine=machine, holder=holder)
        worker.send(job)
    scene.turn()
    assert (jobs_of(one), jobs_of(two)) == (["a"], ["b", "c"]), "c at once: one may not take it"
    assert of(JobFailed, worker.take()) == [JobFailed("d", "no_prefill_worker")]
    late = scene.peer(ProcessId(Role.PREFILL_WORKER, 2))
    worker.send(msgspec.structs.replace(push("f"), machine=2, holder=2))
    late.send(PullJobs(9, ROOM, [], machine=1))
    scene.turn()
    assert (jobs_of(late), jobs_of(two)) == ([], ["f"]), "its holder came up on another machine"
    scene.die(late)
    two.send(JobEnded("f"))
    two.send(PullJobs(0, 0, ["b", "c"], machine=2))
    worker.send(msgspec.structs.replace(push("e"), machine=2))
    scene.turn()
    assert worker.take()[-1] == QueueState(1, 2, {1: (0, 1), 2: (1, 1)})
    scene.die(two)
    assert of(RunJob, one.take()) == []
    failed = of(JobFailed, worker.take())
    assert {one.job_id: one.reason for one in failed} == dict.fromkeys("bce", "no_prefill_worker")
    scene.close()


def test_where_blocks_travel_a_prefill_worker_of_the_same_machine_comes_first(
    scene: Scene, clock: SimpleNamespace
) -> None:
    worker, one, two = (scene.peer(peer) for peer in (WORKER, ONE, TWO))
    one.send(PullJobs(9, ROOM, [], machine=1))
    two.send(PullJobs(0, 0, [], machine=2))
    scene.turn()
    for job_id, machine in (("near", 2), ("alone", 3)):
        worker.send(msgspec.structs.replace(push(job_id), machine=machine))
    scene.turn()
    assert jobs_of(one) == ["alone"], "its machine has no prefill worker"
    clock.now_ns += QueueLimits().affinity_ns + 1
    scene.turn()
    assert jobs_of(one) == ["near"]


def test_prefill_workers_share_what_comes_at_once(scene: Scene) -> None:
    """A regression: the first one got all that it had room for, while the second was idle."""
    worker, one, two = (scene.peer(peer) for peer in (WORKER, ONE, TWO))
    for free in (one, two):
        free.send(PullJobs(9, ROOM, []))
    scene.turn()
    for job_id in "abcd":
        worker.send(push(job_id))
    scene.turn()
    assert (jobs_of(one), jobs_of(two)) == (["a", "c"], ["b", "d"])


def test_a_prefill_worker_that_stands_still_gets_no_more_jobs(
    scene: Scene, clock: SimpleNamespace
) -> None:
    """Each of them would wait until its lease has expired, again and again."""
    worker, one = scene.peer(WORKER), scene.peer(ONE)
    one.send(PullJobs(9, ROOM, []))
    worker.send(push("a"))
    scene.turn()
    assert jobs_of(one) == ["a"]
    clock.now_ns += QueueLimits().lease_ns + 1
    scene.turn()
    told = worker.take()
    assert of(JobFailed, told) == [JobFailed("a", "no_prefill_worker")]
    assert told[-1] == QueueState(0, 0)
    assert of(DropJob, one.take()) == [DropJob("a")]
    worker.send(push("b"))
    scene.turn()
    assert of(JobFailed, worker.take()) == [JobFailed("b", "no_prefill_worker")]
    one.send(PullJobs(9, ROOM, []))  # it goes on
    scene.turn()
    assert worker.take()[-1] == QueueState(0, 1)
    worker.send(push("c"))
    scene.turn()
    assert jobs_of(one) == ["c"]
