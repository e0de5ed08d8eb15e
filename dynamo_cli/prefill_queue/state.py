"""The prefill queue: decode workers put jobs, prefill workers lease them. Pure.

       put            lease           acknowledge
    ---------> waiting ------> leased -------------> ended: done
                  ^               |
                  `---------------'  holder gone, lease expired; the last attempt ends it

Both waiting and leased jobs end early too. Failed, and the decode worker is told: deadline,
attempts, no prefill worker, what the holder says. Dropped: cancelled, decode worker gone.
A job ends exactly once. The clock is an argument, nanoseconds.
"""

from __future__ import annotations

import itertools
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic

from dynamo_cli.prefill_queue.jobs import (
    Abandoned,
    Failed,
    Job,
    Limits,
    Outcome,
    Reason,
    Returned,
    T,
    View,
)
from dynamo_cli.prefill_queue.ranking import Ranking

MAX_WAITS = 4096
"""Wait times that are kept until somebody asks."""


@dataclass(slots=True)
class _Entry(Generic[T]):
    """A job that has not ended.

    Attributes:
        number: of its put; a job that comes back keeps its place.
        line: the prefill worker that alone may take it; None: any may.
        attempts: leases that ended without a result.
        holder: the prefill worker that has leased it; None while it waits.
    """

    job: Job[T]
    number: int
    line: int | None
    attempts: int = 0
    holder: int | None = None


class PrefillQueue(Generic[T]):
    """Jobs in order of priority, first come first served within one, each leased to one holder.

    Methods that end or move jobs return what others are to be told, in order.

    Attributes:
        taken: jobs that were put and taken.
        refused: jobs that were put and not taken, by reason.
        returned: leases that ended without a result and without the end of the job, by reason.
        ended: jobs, by reason; with the jobs that are there their sum is `taken`.
        ignored: what was said of jobs that are unknown or somebody else's, by reason.
        waits_dropped: wait times that nobody asked for in time.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.taken = 0
        self.refused: Counter[Reason] = Counter()
        self.returned: Counter[Reason] = Counter()
        self.ended: Counter[str] = Counter()
        self.ignored: Counter[Reason] = Counter()
        self.waits_dropped = 0
        self._entries: dict[str, _Entry[T]] = {}
        self._lines: dict[int | None, Ranking] = {None: Ranking()}  # by priority
        self._reserved = Ranking()  # by the time when others may take it
        self._deadlines = Ranking()
        self._leases = Ranking()  # by the time when it expires
        self._held: dict[int, dict[str, _Entry[T]]] = {}
        self._numbers = itertools.count()
        self._waiting_tokens = self._leased_tokens = 0
        self._waits: deque[int] = deque()

    # -- decode workers ------------------------------------------------------------------------

    def put(self, job: Job[T]) -> Reason | None:
        """Take a job; the reason when it is not taken."""
        refusal = self._refusal(job)
        if refusal is not None:
            self.refused[refusal] += 1
            return refusal
        entry = _Entry(job, next(self._numbers), job.holder)
        self._entries[job.job_id] = entry
        self._deadlines.add(job.job_id, job.deadline_ns, entry.number)
        if job.holder is not None:
            free_ns = job.put_ns + self.limits.affinity_ns
            self._reserved.add(job.job_id, free_ns, entry.number)
        self._enqueue(entry)
        self.taken += 1
        return None

    def cancel(self, job_id: str) -> list[Outcome]:
        """Nobody wants this job any more."""
        entry = self._entries.get(job_id)
        if entry is None:
            self.ignored[Reason.UNKNOWN] += 1
            return []
        return self._drop(entry, Reason.CANCELLED)

    def worker_gone(self, worker: int) -> list[Outcome]:
        """A decode worker died, and with it whoever wanted its jobs."""
        gone = [entry for entry in self._entries.values() if entry.job.worker == worker]
        return _flat(self._drop(entry, Reason.WORKER_GONE) for entry in gone)

    # -- prefill workers -----------------------------------------------------------------------

    def lease(self, holder: int, jobs: int, tokens: int, now_ns: int) -> list[Job[T]]:
        """Lease what comes next to a prefill worker with that much room left.

        A job that is too large for the room waits, and nothing overtakes it; a prefill worker that
        holds no job gets it whatever its size, or it would wait for ever. `expire` goes first:
        deadlines are not looked at here.
        """
        for job_id in self._reserved.due(now_ns):
            self._free(self._entries[job_id])
        leased: list[Job[T]] = []
        while len(leased) < jobs and (entry := self._next(holder)) is not None:
            if entry.job.prompt_tokens > tokens and self._held.get(holder):
                break
            self._hold(entry, holder, now_ns)
            tokens -= entry.job.prompt_tokens
            leased.append(entry.job)
        return leased

    def renew(self, holder: int, job_ids: Iterable[str], now_ns: int) -> list[Outcome]:
        """A prefill worker is still at these jobs; it is told to stop those it does not hold."""
        lost: list[Outcome] = []
        for job_id in job_ids:
            entry = self._held_by(holder, job_id)
            if entry is None:
                lost.append(Abandoned(job_id, holder))
            else:
                self._leases.add(job_id, now_ns + self.limits.lease_ns, entry.number)
        return lost

    def acknowledge(self, job_id: str, holder: int) -> bool:
        """A prefill worker has completed a job; False when it did not hold it."""
        entry = self._held_by(holder, job_id)
        if entry is None:
            return False
        self._remove(entry, Reason.DONE)
        return True

    def refuse(self, job_id: str, holder: int, reason: str) -> list[Outcome]:
        """A prefill worker cannot do a job that it holds, and neither could another.

        Args:
            reason: a short name, which is counted.
        """
        entry = self._held_by(holder, job_id)
        if entry is None:
            return []
        self._remove(entry, reason)
        return [_failed(entry.job, reason)]

    def holder_gone(self, holder: int) -> list[Outcome]:
        """A prefill worker died: what it held or was to get is anybody's."""
        held = list(self._held.get(holder, {}).values())
        outcomes: list[Outcome] = [self._break_off(entry, Reason.HOLDER_GONE) for entry in held]
        for job_id in list(self._lines.get(holder, ())):
            self._free(self._entries[job_id])
        return outcomes

    def no_holders(self) -> list[Outcome]:
        """There is no prefill worker any more: nothing needs to wait."""
        waiting = [entry for entry in self._entries.values() if entry.holder is None]
        return _flat(self._fail(entry, Reason.NO_PREFILL_WORKER) for entry in waiting)

    # -- time ----------------------------------------------------------------------------------

    def expire(self, now_ns: int) -> list[Outcome]:
        """End jobs whose deadline has come, and leases that were not renewed."""
        late = [self._entries[job_id] for job_id in self._deadlines.due(now_ns)]
        outcomes = _flat(self._fail(entry, Reason.DEADLINE) for entry in late)
        for job_id in self._leases.due(now_ns):
            entry = self._entries[job_id]
            holder = entry.holder
            assert holder is not None
            outcomes += [self._break_off(entry, Reason.LEASE_EXPIRED), Abandoned(job_id, holder)]
        return outcomes

    # -- numbers -------------------------------------------------------------------------------

    def view(self, now_ns: int) -> View:
        """The queue in numbers; O(n) for the age."""
        waiting = (entry.job.put_ns for entry in self._entries.values() if entry.holder is None)
        return View(
            self.depth_jobs,
            self._waiting_tokens,
            len(self._leases),
            self._leased_tokens,
            now_ns - min(waiting, default=now_ns),
        )

    @property
    def depth_jobs(self) -> int:
        """Jobs that wait."""
        return len(self._entries) - len(self._leases)

    def take_waits(self) -> list[int]:
        """Nanoseconds from put to lease, for each lease since this was last asked."""
        waits = list(self._waits)
        self._waits.clear()
        return waits

    # -- transitions ---------------------------------------------------------------------------

    def _refusal(self, job: Job[T]) -> Reason | None:
        if job.job_id in self._entries:
            return Reason.DUPLICATE
        return Reason.FULL if self.depth_jobs >= self.limits.max_jobs else None

    def _enqueue(self, entry: _Entry[T]) -> None:
        job = entry.job
        line = self._lines.setdefault(entry.line, Ranking())
        line.add(job.job_id, job.priority, entry.number)
        self._waiting_tokens += job.prompt_tokens

    def _dequeue(self, entry: _Entry[T]) -> None:
        self._lines[entry.line].discard(entry.job.job_id)
        self._reserved.discard(entry.job.job_id)
        self._waiting_tokens -= entry.job.prompt_tokens

    def _free(self, entry: _Entry[T]) -> None:
        """Let anybody take a job that waits."""
        self._dequeue(entry)
        entry.line = None
        self._enqueue(entry)

    def _next(self, holder: int) -> _Entry[T] | None:
        lines = [self._lines[line] for line in (None, holder) if line in self._lines]
        heads = [head for line in lines if (head := line.first()) is not None]
        return self._entries[min(heads)[2]] if heads else None

    def _hold(self, entry: _Entry[T], holder: int, now_ns: int) -> None:
        job = entry.job
        self._dequeue(entry)
        entry.holder = holder
        self._held.setdefault(holder, {})[job.job_id] = entry
        self._leases.add(job.job_id, now_ns + self.limits.lease_ns, entry.number)
        self._leased_tokens += job.prompt_tokens
        self._note_wait(now_ns - job.put_ns)

    def _note_wait(self, wait_ns: int) -> None:
        if len(self._waits) == MAX_WAITS:
            self._waits.popleft()
            self.waits_dropped += 1
        self._waits.append(wait_ns)

    def _held_by(self, holder: int, job_id: str) -> _Entry[T] | None:
        """The job, if this prefill worker holds it; it is counted if not."""
        entry = self._held.get(holder, {}).get(job_id)
        if entry is None:
            known = job_id in self._entries
            self.ignored[Reason.NOT_HOLDER if known else Reason.UNKNOWN] += 1
        return entry

    def _unlease(self, entry: _Entry[T]) -> None:
        holder = entry.holder
        assert holder is not None
        del self._held[holder][entry.job.job_id]
        self._leases.discard(entry.job.job_id)
        self._leased_tokens -= entry.job.prompt_tokens
        entry.holder = None

    def _break_off(self, entry: _Entry[T], reason: Reason) -> Returned | Failed:
        """A lease ended without a result: the job waits again, or has had its chances."""
        entry.attempts += 1
        if entry.attempts >= self.limits.max_attempts:
            self._remove(entry, Reason.ATTEMPTS)
            return _failed(entry.job, Reason.ATTEMPTS)
        self._unlease(entry)
        entry.line = None
        self._enqueue(entry)
        self.returned[reason] += 1
        return Returned(entry.job.job_id, entry.attempts)

    def _fail(self, entry: _Entry[T], reason: Reason) -> list[Outcome]:
        return [_failed(entry.job, reason), *self._drop(entry, reason)]

    def _drop(self, entry: _Entry[T], reason: Reason) -> list[Outcome]:
        """End a job wherever it is; its holder, if there is one, is to be told."""
        holder = self._remove(entry, reason)
        return [] if holder is None else [Abandoned(entry.job.job_id, holder)]

    def _remove(self, entry: _Entry[T], reason: str) -> int | None:
        """Take a job out, wherever it is; its holder, if there is one."""
        holder = entry.holder
        if holder is None:
            self._dequeue(entry)
        else:
            self._unlease(entry)
        self._deadlines.discard(entry.job.job_id)
        del self._entries[entry.job.job_id]
        self.ended[reason] += 1
        return holder


def _failed(job: Job[T], reason: str) -> Failed:
    return Failed(job.job_id, job.worker, reason)


def _flat(parts: Iterable[list[Outcome]]) -> list[Outcome]:
    return list(itertools.chain.from_iterable(parts))
