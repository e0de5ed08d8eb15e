"""The prefill queue compared with a simple list: no job is lost, and none ends twice."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from dynamo_cli.prefill_queue.jobs import (
    Abandoned,
    FailedJob,
    Job,
    JobOutcome,
    QueueLimits,
    QueueView,
    Returned,
    Room,
)
from dynamo_cli.prefill_queue.state import PrefillQueue

LIMITS = QueueLimits(max_jobs=6, max_attempts=3, lease_ns=20, affinity_ns=25)
WORKERS = st.integers(0, 1)
HOLDERS = st.integers(0, 2)
JOB_IDS = st.sampled_from("abcdefgh")


@dataclass
class Known:
    """A job in the model; the model keeps jobs in the order of their puts."""

    job: Job[int]
    reserved: bool
    attempts: int = 0
    holder: int | None = None
    expires: int = 0


class QueueMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.puts = 0
        self.queue: PrefillQueue[int] = PrefillQueue(LIMITS)
        self.known: list[Known] = []
        self.ends: Counter[int] = Counter()  # by the number of the put

    def waiting(self) -> list[Known]:
        return [one for one in self.known if one.holder is None]

    def find(self, job_id: str) -> Known | None:
        return next((one for one in self.known if one.job.job_id == job_id), None)

    def end(self, one: Known) -> list[JobOutcome]:
        """Remove a job from the model; the outcomes that the queue must return for it."""
        self.known.remove(one)
        self.ends[one.job.payload] += 1
        return [] if one.holder is None else [Abandoned(one.job.job_id, one.holder)]

    def fail(self, one: Known, reason: str) -> list[JobOutcome]:
        return [FailedJob(one.job.job_id, one.job.worker, reason), *self.end(one)]

    def break_off(self, one: Known) -> JobOutcome:
        one.attempts += 1
        if one.attempts == LIMITS.max_attempts:
            return self.fail(one, "attempts")[0]
        one.holder, one.reserved = None, False
        return Returned(one.job.job_id, one.attempts)

    @rule(
        job_id=JOB_IDS,
        worker=WORKERS,
        tokens=st.integers(1, 9),
        priority=st.integers(0, 2),
        life=st.integers(1, 200),
        holder=HOLDERS | st.none(),
    )
    def put(
        self, job_id: str, worker: int, tokens: int, priority: int, life: int, holder: int | None
    ) -> None:
        self.puts += 1
        job = Job(job_id, worker, tokens, priority, self.now + life, self.now, self.puts, holder)
        if self.find(job_id) is not None:
            assert self.queue.put(job) == "duplicate"
        elif len(self.waiting()) >= LIMITS.max_jobs:
            assert self.queue.put(job) == "full"
        else:
            assert self.queue.put(job) is None
            self.known.append(Known(job, holder is not None))

    @rule(holder=HOLDERS, jobs=st.integers(0, 4), tokens=st.integers(0, 20))
    def lease(self, holder: int, jobs: int, tokens: int) -> None:
        expected = []
        for one in sorted(self.waiting(), key=lambda one: one.job.priority):
            free = self.now >= one.job.put_ns + LIMITS.affinity_ns
            if one.reserved and not free and one.job.holder != holder:
                continue
            alone = not any(other.holder == holder for other in self.known)
            if len(expected) == jobs or (one.job.prompt_tokens > tokens and not alone):
                break
            one.holder, one.expires = holder, self.now + LIMITS.lease_ns
            tokens -= one.job.prompt_tokens
            expected.append(one.job)
        given = tokens + sum(job.prompt_tokens for job in expected)
        assert self.queue.lease(holder, jobs, given, self.now) == expected
        assert self.queue.take_waits() == [self.now - job.put_ns for job in expected]

    @rule(tokens=st.integers(0, 20))
    def share(self, tokens: int) -> None:
        """Jobs go to those that may take them, and what each has to compute is counted right."""
        held = Counter(dict.fromkeys(range(3), 0))
        for one in self.known:
            if one.holder is not None:
                held[one.holder] += one.job.prompt_tokens
        rooms = {holder: Room(2, tokens) for holder in range(3)}
        for holder, job in self.queue.share(rooms, self.now):
            one = self.find(job.job_id)
            assert one is not None and one.holder is None
            if one.reserved and self.now < job.put_ns + LIMITS.affinity_ns:
                assert holder == job.holder
            one.holder, one.expires = holder, self.now + LIMITS.lease_ns
            held[holder] += job.prompt_tokens
        assert self.queue._held_tokens == held
        self.queue.take_waits()

    @rule(job_id=JOB_IDS, holder=HOLDERS)
    def acknowledge(self, job_id: str, holder: int) -> None:
        one = self.find(job_id)
        held = one is not None and one.holder == holder
        assert self.queue.acknowledge(job_id, holder) == held
        if one is not None and held:
            self.end(one)

    @precondition(lambda self: any(one.holder is not None for one in self.known))
    @rule(data=st.data(), done=st.booleans())
    def finish(self, data: st.DataObject, done: bool) -> None:
        one = data.draw(st.sampled_from([one for one in self.known if one.holder is not None]))
        assert one.holder is not None
        if done:
            assert self.queue.acknowledge(one.job.job_id, one.holder)
            self.end(one)
        else:
            refused = self.queue.refuse(one.job.job_id, one.holder, "engine")
            assert refused == self.fail(one, "engine")[:1]

    @rule(holder=HOLDERS, job_ids=st.lists(JOB_IDS, unique=True))
    def renew(self, holder: int, job_ids: list[str]) -> None:
        lost = []
        for job_id in job_ids:
            one = self.find(job_id)
            if one is None or one.holder != holder:
                lost.append(Abandoned(job_id, holder))
            else:
                one.expires = self.now + LIMITS.lease_ns
        assert self.queue.renew(holder, job_ids, self.now) == lost

    @rule(job_id=JOB_IDS)
    def cancel(self, job_id: str) -> None:
        one = self.find(job_id)
        assert self.queue.cancel(job_id) == ([] if one is None else self.end(one))

    @rule(worker=WORKERS)
    def worker_gone(self, worker: int) -> None:
        gone = [one for one in self.known if one.job.worker == worker]
        expected = [outcome for one in gone for outcome in self.end(one)]
        assert sorted(self.queue.worker_gone(worker)) == sorted(expected)

    @rule(holder=HOLDERS)
    def holder_gone(self, holder: int) -> None:
        held = [one for one in self.known if one.holder == holder]
        for one in self.waiting():
            one.reserved &= one.job.holder != holder
        expected = [self.break_off(one) for one in held]
        assert sorted(self.queue.holder_gone(holder), key=repr) == sorted(expected, key=repr)

    @rule()
    def no_holders(self) -> None:
        waiting = self.waiting()
        expected = [outcome for one in waiting for outcome in self.fail(one, "no_prefill_worker")]
        assert self.queue.no_holders() == expected

    @rule(elapsed=st.integers(0, 30))
    def time_passes(self, elapsed: int) -> None:
        self.now += elapsed
        late = [one for one in self.known if one.job.deadline_ns <= self.now]
        expected = [outcome for one in late for outcome in self.fail(one, "deadline")]
        for one in list(self.known):
            if one.holder is not None and one.expires <= self.now:
                expected += [Abandoned(one.job.job_id, one.holder), self.break_off(one)]
        assert sorted(self.queue.expire(self.now), key=repr) == sorted(expected, key=repr)

    @invariant()
    def numbers_are_those_of_the_model(self) -> None:
        waiting = self.waiting()
        leased = [one for one in self.known if one.holder is not None]
        assert self.queue.view(self.now) == QueueView(
            len(waiting),
            sum(one.job.prompt_tokens for one in waiting),
            len(leased),
            sum(one.job.prompt_tokens for one in leased),
            max((self.now - one.job.put_ns for one in waiting), default=0),
        )

    @invariant()
    def every_job_is_there_or_has_ended_once(self) -> None:
        assert self.queue.taken == len(self.known) + self.queue.ended.total()
        assert self.queue.ended.total() == len(self.ends)
        assert set(self.ends.values()) <= {1}

    def teardown(self) -> None:
        """End all jobs; nothing may be left."""
        for holder in range(3):
            self.holder_gone(holder)
        self.no_holders()
        assert not self.known
        self.numbers_are_those_of_the_model()
        self.every_job_is_there_or_has_ended_once()


TestQueue = QueueMachine.TestCase
TestQueue.settings = settings(max_examples=150, stateful_step_count=40)
