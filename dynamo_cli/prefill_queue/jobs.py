"""The jobs that go into the prefill queue, and the outcomes that come out of it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, NamedTuple, TypeVar

from dynamo_cli.units import MS_NS, SECOND_NS

T = TypeVar("T")


class JobReason(StrEnum):
    """Why a job was refused, returned or ended, or why a message about a job was ignored."""

    # A job was refused.
    FULL = "full"
    DUPLICATE = "duplicate"
    # A leased job was returned: it waits again.
    HOLDER_GONE = "holder_gone"
    LEASE_EXPIRED = "lease_expired"
    # A job ended.
    DONE = "done"
    DEADLINE = "deadline"
    ATTEMPTS = "attempts"
    NO_PREFILL_WORKER = "no_prefill_worker"
    CANCELLED = "cancelled"
    WORKER_GONE = "worker_gone"
    # A message about a job was ignored.
    UNKNOWN = "unknown"
    NOT_HOLDER = "not_holder"


class Taker(StrEnum):
    """Which prefill workers a job waits for: one, or all of one machine."""

    HOLDER = "holder"
    MACHINE = "machine"


Line = tuple[Taker, int] | None
"""Name of a line of waiting jobs: which prefill worker or machine may take them; None: any may."""


@dataclass(frozen=True, slots=True)
class Job(Generic[T]):
    """A prompt to prefill.

    Attributes:
        job_id: unique among the jobs that have not ended.
        worker: index of the decode worker that wants it.
        prompt_tokens: number of prompt tokens to compute.
        priority: a job with a smaller one comes first.
        deadline_ns: when the job fails if it has not ended.
        put_ns: when the job was put into the queue.
        holder: index of the prefill worker that has the prompt's prefix cached. At first only this
            one may take the job. None: any may.
        machine: at first only prefill workers of this machine may take the job. None: those of all
            machines may.
        stays: whether only prefill workers of `machine` may ever take the job.
        hashes: packed u64 sequence hashes of the prompt's full blocks; may be empty.
        payload: what the prefill worker needs; the queue does not look at it.
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
    machine: int | None = None
    stays: bool = False

    @property
    def line(self) -> Line:
        """Which prefill workers may take it at first."""
        if self.holder is not None:
            return Taker.HOLDER, self.holder
        return (Taker.MACHINE, self.machine) if self.machine is not None else None

    @property
    def last_line(self) -> Line:
        """Which prefill workers may take it after `QueueLimits.affinity_ns`."""
        if not self.stays or self.machine is None:
            return None
        return Taker.MACHINE, self.machine


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """Bounds of the queue.

    Attributes:
        max_jobs: number of jobs that may wait; more are refused, but returned jobs never are.
        max_attempts: a job fails after this many leases that ended without a result.
        lease_ns: time after which a lease expires unless it is renewed.
        affinity_ns: how long a job is reserved for the prefill worker that has its prefix cached,
            or for those of one machine.
    """

    max_jobs: int = 1024
    max_attempts: int = 3
    lease_ns: int = 10 * SECOND_NS
    affinity_ns: int = 100 * MS_NS


@dataclass(slots=True)
class Room:
    """What a prefill worker can still take.

    Attributes:
        jobs, tokens: largest number of jobs, and of the prompt tokens to compute for them.
        machine: number of the machine that it runs on.
    """

    jobs: int
    tokens: int
    machine: int = 0


class Returned(NamedTuple):
    """A leased job waits again.

    Attributes:
        attempts: number of its leases that ended without a result.
    """

    job_id: str
    attempts: int


class FailedJob(NamedTuple):
    """A job has ended without a result: its decode worker must be told why."""

    job_id: str
    worker: int
    reason: str


class Abandoned(NamedTuple):
    """This holder no longer holds the job: it must be told to stop."""

    job_id: str
    holder: int


JobOutcome = Returned | FailedJob | Abandoned


class QueueView(NamedTuple):
    """The numbers of the queue.

    Attributes:
        depth_jobs, depth_tokens: jobs that wait, and the tokens to compute for them.
        in_flight_jobs, in_flight_tokens: the same of leased jobs.
        oldest_age_ns: time since the put of the oldest job that waits; 0 if no job waits.
    """

    depth_jobs: int
    depth_tokens: int
    in_flight_jobs: int
    in_flight_tokens: int
    oldest_age_ns: int
