"""Messages of disaggregated prefill: decode worker, prefill queue, prefill worker and back."""

from __future__ import annotations

from dynamo_cli.messages.base import Message
from dynamo_cli.messages.request import Frames

# -- decode worker -> prefill queue ------------------------------------------------------------


class PushJob(Message, frozen=True):
    """Prefill this prompt; answered by `PrefillDone` (prefill worker) or `JobFailed` (queue).

    Attributes:
        job_id: unique among the jobs of all decode workers.
        prompt_tokens: length of the prompt.
        skip_tokens: leading tokens that need not be computed, as far as the decode worker knows.
        holder: index of the prefill worker that has most of the prompt cached; at first, only this
            one may take the job. None if any may.
        priority: jobs with a smaller one come first.
        deadline_ns: time on the monotonic clock after which the job is not wanted any more.
        token_ids, frames: as in `AddRequest`.
        machine: that of the decode worker, as `WorkerConfig` numbers it.
    """

    job_id: str
    prompt_tokens: int
    skip_tokens: int
    holder: int | None
    priority: int
    deadline_ns: int
    token_ids: bytes
    frames: Frames
    machine: int = 0


class CancelJob(Message, frozen=True):
    """Nobody wants this job any more."""

    job_id: str


# -- prefill queue -> decode worker ------------------------------------------------------------


class JobFailed(Message, frozen=True):
    """The job ended without a result: the decode worker must prefill the prompt itself.

    Attributes:
        reason: ``deadline``, ``attempts``, ``no_prefill_worker`` or ``full``; or what `JobEnded`
            said.
    """

    job_id: str
    reason: str


class QueueState(Message, frozen=True):
    """The length of the queue, sent at each change.

    Attributes:
        depth_jobs: number of jobs that wait for a prefill worker.
        prefill_workers: number of prefill workers that take jobs.
        by_machine: both for each machine with prefill workers, if these serve only decode workers
            of their machine; else None.
    """

    depth_jobs: int
    prefill_workers: int
    by_machine: dict[int, tuple[int, int]] | None = None

    def on(self, machine: int) -> tuple[int, int]:
        """Jobs and prefill workers, as a decode worker of this machine has to count them."""
        if self.by_machine is None:
            return self.depth_jobs, self.prefill_workers
        return self.by_machine.get(machine, (0, 0))


# -- prefill worker <-> prefill queue ----------------------------------------------------------


class PullJobs(Message, frozen=True):
    """A prefill worker has room for jobs; the queue sends them as soon as there are any.

    Repeated at an interval, which renews the leases of the jobs that it holds.

    Attributes:
        jobs: largest number of further jobs that it takes.
        tokens: largest number of prompt tokens of these jobs together.
        held: ids of the jobs that it holds.
        machine: the one that it runs on, as `WorkerConfig` numbers it.
    """

    jobs: int
    tokens: int
    held: list[str]
    machine: int = 0


class Enlisted(Message, frozen=True):
    """The decode workers have been told of this prefill worker: it may get jobs from now on."""


class RunJob(Message, frozen=True):
    """A leased job; `worker` is the index of the decode worker that it is for."""

    worker: int
    job: PushJob


class DropJob(Message, frozen=True):
    """Drop a leased job: nobody wants it any more."""

    job_id: str


class JobEnded(Message, frozen=True):
    """A leased job is over; `failed` says why if it has no result, else it is empty."""

    job_id: str
    failed: str = ""


# -- prefill worker -> decode worker ("notify finished") and back --------------------------------


class PrefillDone(Message, frozen=True):
    """The decode worker can take the KV blocks of a job.

    Attributes:
        prefill_worker: index of the prefill worker that holds them.
        params: kv_transfer_params for the decode engine, as JSON; with the `transfer_id` of the
            blocks if the decode worker must release them.
        leased_ns: when the prefill worker got the job, on the monotonic clock.
        prefilled_ns: when its last block was computed.
    """

    job_id: str
    prefill_worker: int
    params: bytes
    leased_ns: int
    prefilled_ns: int


class ReleaseTransfers(Message, frozen=True):
    """The decode worker does not need the KV blocks of these transfers any more: they can be
    freed."""

    transfer_ids: list[str]


# -- decode worker -> processor ------------------------------------------------------------------


class PrefilledElsewhere(Message, frozen=True):
    """A request continues with KV blocks of a prefill worker; for the times see `Timeline`."""

    request_id: str
    prefill_worker: int
    pushed_ns: int
    leased_ns: int
    prefilled_ns: int


# -- prefill queue, prefill worker, decode worker -> frontend: telemetry -------------------------


class PrefillQueueStats(Message, frozen=True):
    """The state of the queue now, and its counters since it started.

    Attributes:
        depth_jobs, depth_tokens: jobs that wait, and their prompt tokens.
        in_flight_jobs, in_flight_tokens: the same for jobs that prefill workers hold.
        oldest_age_s: age of the oldest job that waits, seconds.
        alarm: whether this age is above the limit for an alarm.
        taken: number of jobs that the queue has accepted.
        ended, refused, returned: number of jobs by reason.
        waits_s: times from push to lease, one for each lease since the last report.
        refused_sends: messages that full links have refused.
    """

    depth_jobs: int
    depth_tokens: int
    in_flight_jobs: int
    in_flight_tokens: int
    oldest_age_s: float
    alarm: bool
    taken: int
    ended: dict[str, int]
    refused: dict[str, int]
    returned: dict[str, int]
    waits_s: list[float]
    refused_sends: int


class TransferStats(Message, frozen=True):
    """Counters of a worker for disaggregation since it started; dicts count by reason.

    Attributes:
        prefill: whether this is a prefill worker.
        worker: its index among those of its kind.
        placements: prefills by ``remote:reason`` and ``local:reason`` (decode workers).
        fallbacks: remote prefills that were done locally after all (decode workers).
        away: requests that are being prefilled elsewhere now (decode workers).
        copies, nbytes, copy_s: copies of KV blocks, their bytes and time, by direction (``save``,
            ``load``).
        failures: transfers that failed.
        prefill_s: times of the prefills since the last report (prefill workers).
        kept: for a decode worker, number of its other entries (leaders of siblings, siblings that
            wait, transfers whose blocks were not released); for a prefill worker, of its jobs, and
            of what it has at the host cache (leases, searches, slots that are being written).
    """

    prefill: bool
    worker: int
    placements: dict[str, int]
    fallbacks: dict[str, int]
    away: int
    copies: dict[str, int]
    nbytes: dict[str, int]
    copy_s: dict[str, float]
    failures: dict[str, int]
    prefill_s: list[float]
    kept: int = 0


class SetPlacement(Message, frozen=True):
    """Frontend -> decode worker: decide by these bounds from now on; see `PlacementRule`."""

    conditional: bool
    max_local_prefill_length: int
    max_prefill_queue_size: int | None
