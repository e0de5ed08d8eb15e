"""The prefill queue: decode workers put jobs, prefill workers lease them. Pure.

       put            lease           acknowledge
    ---------> waiting ------> leased -------------> ended: done
                  ^               |
                  `---------------'  holder gone or lease expired, while attempts are left

The holder of a job is the prefill worker that has leased it. A job can also end early, whether it
waits or is leased. It fails, and its decode worker is told why, if its deadline passes, its
attempts are used up, there is no prefill worker, or its holder refuses it. It is dropped if it is
cancelled or its decode worker is gone. A job ends exactly once. Times are arguments, in nanoseconds
of the monotonic clock.
"""

from __future__ import annotations

import itertools
from collections import Counter, deque
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Generic

from dynamo_cli.prefill_queue.jobs import (
    Abandoned,
    FailedJob,
    Job,
    JobOutcome,
    JobReason,
    Line,
    QueueLimits,
    QueueView,
    Returned,
    Room,
    T,
    Taker,
)
from dynamo_cli.prefill_queue.lazy_heap import LazyHeap

MAX_WAITS = 4096
"""Number of wait times that are kept for the next report."""


@dataclass(slots=True)
class _Entry(Generic[T]):
    """A job that has not ended.

    Attributes:
        number: sequence number of the put; a job that is returned keeps it, and so its place.
        line: which prefill workers may take it now.
        attempts: number of leases that ended without a result.
        holder: index of the prefill worker that has leased it; None while it waits.
    """

    job: Job[T]
    number: int
    line: Line
    attempts: int = 0
    holder: int | None = None


class PrefillQueue(Generic[T]):
    """Jobs in order of priority, first come, first served within one; each has one holder at most.

    Methods that end or move jobs return the outcomes that workers must be told of, in order.

    Args:
        limits: bounds of the queue.

    Attributes:
        taken: number of jobs that were put and accepted.
        refused: number of jobs that were put and refused, by reason.
        returned: number of leases that ended without a result and whose job waits again, by reason.
        ended: number of jobs that ended, by reason; with those that have not ended they add up to
            `taken`.
        ignored: number of messages about jobs that are unknown or held by another, by reason.
        waits_dropped: number of wait times that were dropped before a report took them.
    """

    def __init__(self, limits: QueueLimits) -> None:
        self.limits = limits
        self.taken = 0
        self.refused: Counter[JobReason] = Counter()
        self.returned: Counter[JobReason] = Counter()
        self.ended: Counter[str] = Counter()
        self.ignored: Counter[JobReason] = Counter()
        self.waits_dropped = 0
        self._entries: dict[str, _Entry[T]] = {}
        self._lines: dict[Line, LazyHeap] = {None: LazyHeap()}  # by priority
        self._reserved = LazyHeap()  # by the time when other prefill workers may take them too
        self._deadlines = LazyHeap()
        self._leases = LazyHeap()  # by the time when the lease expires
        self._held: dict[int, dict[str, _Entry[T]]] = {}
        self._held_tokens: Counter[int] = Counter()  # by holder
        self._numbers = itertools.count()
        self._waiting_tokens = self._leased_tokens = 0
        self._waiting_on: Counter[int | None] = Counter()  # by machine
        self._waits: deque[int] = deque()

    # -- decode workers ------------------------------------------------------------------------

    def put(self, job: Job[T]) -> JobReason | None:
        """Add a job; returns the reason if it is refused, else None."""
        refusal = self._refusal(job)
        if refusal is not None:
            self.refused[refusal] += 1
            return refusal
        entry = _Entry(job, next(self._numbers), job.line)
        self._entries[job.job_id] = entry
        self._deadlines.add(job.job_id, job.deadline_ns, entry.number)
        if job.line != job.last_line:
            free_ns = job.put_ns + self.limits.affinity_ns
            self._reserved.add(job.job_id, free_ns, entry.number)
        self._enqueue(entry)
        self.taken += 1
        return None

    def cancel(self, job_id: str) -> list[JobOutcome]:
        """Drop a job that its decode worker does not want any more."""
        entry = self._entries.get(job_id)
        if entry is None:
            self.ignored[JobReason.UNKNOWN] += 1
            return []
        return self._drop(entry, JobReason.CANCELLED)

    def worker_gone(self, worker: int) -> list[JobOutcome]:
        """Drop the jobs of a decode worker that is gone."""
        gone = [entry for entry in self._entries.values() if entry.job.worker == worker]
        return _flat(self._drop(entry, JobReason.WORKER_GONE) for entry in gone)

    # -- prefill workers -----------------------------------------------------------------------

    def share(self, rooms: Mapping[int, Room], now_ns: int) -> list[tuple[int, Job[T]]]:
        """Lease the next jobs one by one, each to the prefill worker that has the fewest tokens to
        compute among those that can take it. So none gets a second one while another is idle.

        Args:
            rooms: what each prefill worker can still take; what it gets is subtracted.
            now_ns: current time.

        Returns:
            pairs of prefill worker and job.
        """
        leased: list[tuple[int, Job[T]]] = []
        while (pair := self._share_one(rooms, now_ns)) is not None:
            leased.append(pair)
        return leased

    def _share_one(self, rooms: Mapping[int, Room], now_ns: int) -> tuple[int, Job[T]] | None:
        for holder in sorted(rooms, key=self._held_tokens.__getitem__):
            room = rooms[holder]
            for job in self.lease(holder, min(room.jobs, 1), room.tokens, now_ns, room.machine):
                room.jobs -= 1
                room.tokens -= job.prompt_tokens
                return holder, job
        return None

    def lease(
        self, holder: int, jobs: int, tokens: int, now_ns: int, machine: int = 0
    ) -> list[Job[T]]:
        """Lease the next jobs to a prefill worker. Call `expire` first, which checks deadlines.

        If the next job has more tokens than the prefill worker has room for, the job waits, and no
        other job overtakes it. A prefill worker that holds no job gets the next one whatever its
        size: a very long one could wait for ever otherwise.

        Args:
            holder: index of the prefill worker.
            jobs, tokens: how much it can still take.
            now_ns: current time.
            machine: number of the machine that it runs on.
        """
        for job_id in self._reserved.due(now_ns):
            self._free(self._entries[job_id])
        leased: list[Job[T]] = []
        while len(leased) < jobs and (entry := self._next(holder, machine)) is not None:
            if entry.job.prompt_tokens > tokens and self._held.get(holder):
                break
            self._hold(entry, holder, now_ns)
            tokens -= entry.job.prompt_tokens
            leased.append(entry.job)
        return leased

    def renew(self, holder: int, job_ids: Iterable[str], now_ns: int) -> list[JobOutcome]:
        """Extend the leases of these jobs; `holder` is told to stop those that it does not hold."""
        lost: list[JobOutcome] = []
        for job_id in job_ids:
            entry = self._held_by(holder, job_id)
            if entry is None:
                lost.append(Abandoned(job_id, holder))
            else:
                self._leases.add(job_id, now_ns + self.limits.lease_ns, entry.number)
        return lost

    def acknowledge(self, job_id: str, holder: int) -> bool:
        """End a job that a prefill worker has completed; False if it did not hold the job."""
        entry = self._held_by(holder, job_id)
        if entry is None:
            return False
        self._remove(entry, JobReason.DONE)
        return True

    def refuse(self, job_id: str, holder: int, reason: str) -> list[JobOutcome]:
        """Fail a job that its holder cannot run, without another attempt.

        Args:
            reason: a short name under which the failure is counted.
        """
        entry = self._held_by(holder, job_id)
        if entry is None:
            return []
        self._remove(entry, reason)
        return [_failed(entry.job, reason)]

    def holder_gone(self, holder: int) -> list[JobOutcome]:
        """Let others take the jobs that a prefill worker, which is gone, held or was to get.

        A job that was leased for the last time it may be fails.
        """
        held = list(self._held.get(holder, {}).values())
        outcomes: list[JobOutcome] = [
            self._break_off(entry, JobReason.HOLDER_GONE) for entry in held
        ]
        for job_id in list(self._lines.get((Taker.HOLDER, holder), ())):
            self._free(self._entries[job_id])
        return outcomes

    def no_holders(self) -> list[JobOutcome]:
        """Fail all jobs that wait, because there is no prefill worker."""
        waiting = [entry for entry in self._entries.values() if entry.holder is None]
        return self._fail_all(waiting)

    def only_on(self, machines: Collection[int]) -> list[JobOutcome]:
        """Fail waiting jobs that must stay on a machine without prefill workers.

        Args:
            machines: the machines that have prefill workers.
        """
        waiting = [
            self._entries[job_id]
            for line, ranking in self._lines.items()
            if line is not None and line[0] is Taker.MACHINE and line[1] not in machines
            for job_id in ranking
        ]
        return self._fail_all([entry for entry in waiting if entry.job.stays])

    def _fail_all(self, entries: list[_Entry[T]]) -> list[JobOutcome]:
        return _flat(self._fail(entry, JobReason.NO_PREFILL_WORKER) for entry in entries)

    # -- time ----------------------------------------------------------------------------------

    def expire(self, now_ns: int) -> list[JobOutcome]:
        """End the jobs whose deadline has passed, and the leases that were not renewed."""
        late = [self._entries[job_id] for job_id in self._deadlines.due(now_ns)]
        outcomes = _flat(self._fail(entry, JobReason.DEADLINE) for entry in late)
        for job_id in self._leases.due(now_ns):
            entry = self._entries[job_id]
            holder = entry.holder
            assert holder is not None
            outcomes += [self._break_off(entry, JobReason.LEASE_EXPIRED), Abandoned(job_id, holder)]
        return outcomes

    # -- numbers -------------------------------------------------------------------------------

    def view(self, now_ns: int) -> QueueView:
        """The numbers of the queue; takes O(n) for the age of the oldest job."""
        waiting = (entry.job.put_ns for entry in self._entries.values() if entry.holder is None)
        return QueueView(
            self.depth_jobs,
            self._waiting_tokens,
            len(self._leases),
            self._leased_tokens,
            now_ns - min(waiting, default=now_ns),
        )

    @property
    def depth_jobs(self) -> int:
        """Number of jobs that wait."""
        return len(self._entries) - len(self._leases)

    def depth_on(self, machine: int) -> int:
        """Number of jobs of one machine that wait."""
        return self._waiting_on[machine]

    def take_waits(self) -> list[int]:
        """Return the time from put to lease of each lease since the last call, nanoseconds."""
        waits = list(self._waits)
        self._waits.clear()
        return waits

    # -- transitions ---------------------------------------------------------------------------

    def _refusal(self, job: Job[T]) -> JobReason | None:
        if job.job_id in self._entries:
            return JobReason.DUPLICATE
        return JobReason.FULL if self.depth_jobs >= self.limits.max_jobs else None

    def _enqueue(self, entry: _Entry[T]) -> None:
        job = entry.job
        line = self._lines.setdefault(entry.line, LazyHeap())
        line.add(job.job_id, job.priority, entry.number)
        self._waiting_tokens += job.prompt_tokens
        self._waiting_on[job.machine] += 1

    def _dequeue(self, entry: _Entry[T]) -> None:
        self._lines[entry.line].discard(entry.job.job_id)
        self._reserved.discard(entry.job.job_id)
        self._waiting_tokens -= entry.job.prompt_tokens
        self._waiting_on[entry.job.machine] -= 1

    def _free(self, entry: _Entry[T]) -> None:
        """Let other prefill workers take a waiting job too: its reservation is over."""
        self._dequeue(entry)
        entry.line = entry.job.last_line
        self._enqueue(entry)

    def _next(self, holder: int, machine: int) -> _Entry[T] | None:
        mine: tuple[Line, ...] = (None, (Taker.HOLDER, holder), (Taker.MACHINE, machine))
        lines = [self._lines[line] for line in mine if line in self._lines]
        heads = [head for line in lines if (head := line.first()) is not None]
        return self._entries[min(heads)[2]] if heads else None

    def _hold(self, entry: _Entry[T], holder: int, now_ns: int) -> None:
        job = entry.job
        self._dequeue(entry)
        entry.holder = holder
        self._held.setdefault(holder, {})[job.job_id] = entry
        self._leases.add(job.job_id, now_ns + self.limits.lease_ns, entry.number)
        self._leased_tokens += job.prompt_tokens
        self._held_tokens[holder] += job.prompt_tokens
        self._note_wait(now_ns - job.put_ns)

    def _note_wait(self, wait_ns: int) -> None:
        if len(self._waits) == MAX_WAITS:
            self._waits.popleft()
            self.waits_dropped += 1
        self._waits.append(wait_ns)

    def _held_by(self, holder: int, job_id: str) -> _Entry[T] | None:
        """The job if this prefill worker holds it; else None, and the message is counted as
        ignored."""
        entry = self._held.get(holder, {}).get(job_id)
        if entry is None:
            known = job_id in self._entries
            self.ignored[JobReason.NOT_HOLDER if known else JobReason.UNKNOWN] += 1
        return entry

    def _unlease(self, entry: _Entry[T]) -> None:
        holder = entry.holder
        assert holder is not None
        del self._held[holder][entry.job.job_id]
        self._leases.discard(entry.job.job_id)
        self._leased_tokens -= entry.job.prompt_tokens
        self._held_tokens[holder] -= entry.job.prompt_tokens
        entry.holder = None

    def _break_off(self, entry: _Entry[T], reason: JobReason) -> Returned | FailedJob:
        """End a lease without a result: the job waits again, or fails after its last attempt."""
        entry.attempts += 1
        if entry.attempts >= self.limits.max_attempts:
            self._remove(entry, JobReason.ATTEMPTS)
            return _failed(entry.job, JobReason.ATTEMPTS)
        self._unlease(entry)
        entry.line = entry.job.last_line
        self._enqueue(entry)
        self.returned[reason] += 1
        return Returned(entry.job.job_id, entry.attempts)

    def _fail(self, entry: _Entry[T], reason: JobReason) -> list[JobOutcome]:
        return [_failed(entry.job, reason), *self._drop(entry, reason)]

    def _drop(self, entry: _Entry[T], reason: JobReason) -> list[JobOutcome]:
        """End a job, whether it waits or is leased; its holder, if it has one, must be told."""
        holder = self._remove(entry, reason)
        return [] if holder is None else [Abandoned(entry.job.job_id, holder)]

    def _remove(self, entry: _Entry[T], reason: str) -> int | None:
        """Remove a job, whether it waits or is leased; returns its holder if it was leased."""
        holder = entry.holder
        if holder is None:
            self._dequeue(entry)
        else:
            self._unlease(entry)
        self._deadlines.discard(entry.job.job_id)
        del self._entries[entry.job.job_id]
        self.ended[reason] += 1
        return holder


def _failed(job: Job[T], reason: str) -> FailedJob:
    return FailedJob(job.job_id, job.worker, reason)


def _flat(parts: Iterable[list[JobOutcome]]) -> list[JobOutcome]:
    return list(itertools.chain.from_iterable(parts))
