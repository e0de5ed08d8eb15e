"""What goes into the prefill queue, and what comes out of it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")


class Reason(StrEnum):
    """Why something happened to a job, or did not."""

    # A job was not taken.
    FULL = "full"
    DUPLICATE = "duplicate"
    # A leased job waits again.
    HOLDER_GONE = "holder_gone"
    LEASE_EXPIRED = "lease_expired"
    # A job has ended.
    DONE = "done"
    DEADLINE = "deadline"
    ATTEMPTS = "attempts"
    NO_PREFILL_WORKER = "no_prefill_worker"
    CANCELLED = "cancelled"
    WORKER_GONE = "worker_gone"
    # What was said of a job is of no effect.
    UNKNOWN = "unknown"
    NOT_HOLDER = "not_holder"


@dataclass(frozen=True, slots=True)
class Job(Generic[T]):
    """A prompt to prefill.

    Attributes:
        job_id: unique among the jobs that have not ended.
        worker: index of the decode worker that wants it.
        prompt_tokens: to compute; the unit of depths and of a prefill worker's room.
        priority: smaller comes first.
        deadline_ns: from then on nobody wants it.
        put_ns: when it was put.
        holder: the prefill worker that has its prefix, which alone may take the job at first; None:
            any may.
        hashes: packed u64 sequence hashes of the prompt's full blocks; may be empty.
        payload: what the prefill worker needs; carried along unseen.
    """

    job_id: str
    worker: int
    prompt_tokens: int
    priority: int
    deadline_ns: int
    put_ns: int
    payload: T
    holder: int | None = None
    hashes: bytes = b""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of the queue.

    Attributes:
        max_jobs: that may wait; more are refused. Those that come back are never refused.
        max_attempts: leases of one job that may end without a result.
        lease_ns: after which a lease ends unless it is renewed.
        affinity_ns: that a job waits for the prefill worker with its prefix before others may
            take it.
    """

    max_jobs: int = 1024
    max_attempts: int = 3
    lease_ns: int = 10_000_000_000
    affinity_ns: int = 100_000_000


class Returned(NamedTuple):
    """A leased job waits again: somebody else may have room for it.

    Attributes:
        attempts: leases that ended without a result.
    """

    job_id: str
    attempts: int


class Failed(NamedTuple):
    """A job has ended without a result: its decode worker is to be told why."""

    job_id: str
    worker: int
    reason: str


class Abandoned(NamedTuple):
    """A job is no longer this holder's: it is to be told to stop."""

    job_id: str
    holder: int


Outcome = Returned | Failed | Abandoned


class View(NamedTuple):
    """The queue in numbers.

    Attributes:
        depth_jobs, depth_tokens: that wait.
        in_flight_jobs, in_flight_tokens: that are leased.
        oldest_age_ns: since the put of the oldest job that waits; 0 when none does.
    """

    depth_jobs: int
    depth_tokens: int
    in_flight_jobs: int
    in_flight_tokens: int
    oldest_age_ns: int
