"""Disaggregated prefill: decode worker, prefill queue, prefill worker and back."""

from __future__ import annotations

from dynamo_cli.messages.base import Message
from dynamo_cli.messages.request import Frames

# -- decode worker -> prefill queue ------------------------------------------------------------


class PushJob(Message, frozen=True):
    """Prefill this prompt. Ended by `PrefillDone` of a prefill worker, or `JobFailed`.

    Attributes:
        job_id: unique; names the transfer of its KV blocks too.
        skip_tokens: leading tokens that the decode worker has in its own cache.
        holder: index of the prefill worker that holds most of the prompt's blocks, which alone may
            take the job at first; None: any may.
        priority: smaller comes first.
        deadline_ns: after which nobody wants it any more.
        token_ids, frames: as in `AddRequest`.
    """

    job_id: str
    prompt_tokens: int
    skip_tokens: int
    holder: int | None
    priority: int
    deadline_ns: int
    token_ids: bytes
    frames: Frames


class CancelJob(Message, frozen=True):
    """Nobody wants this any more."""

    job_id: str


# -- prefill queue -> decode worker ------------------------------------------------------------


class JobFailed(Message, frozen=True):
    """The job ended without a result, and its request is to be prefilled locally.

    Attributes:
        reason: deadline, attempts, no_prefill_worker, full.
    """

    job_id: str
    reason: str


class QueueState(Message, frozen=True):
    """How long the queue is, sent at each change.

    Attributes:
        depth_jobs: that wait for a prefill worker.
        prefill_workers: that take jobs.
    """

    depth_jobs: int
    prefill_workers: int


# -- prefill worker <-> prefill queue ----------------------------------------------------------


class PullJobs(Message, frozen=True):
    """This prefill worker has room for so much more, all in all; jobs follow when there are any.

    Repeated now and then: a sign of life for the jobs that it holds.
    """

    jobs: int
    tokens: int
    held: list[str]


class Enlisted(Message, frozen=True):
    """Decode workers have been told of this prefill worker: what comes now is sent to it."""


class RunJob(Message, frozen=True):
    """A leased job."""

    worker: int
    job: PushJob


class DropJob(Message, frozen=True):
    """Stop a leased job: nobody wants it any more."""

    job_id: str


class JobEnded(Message, frozen=True):
    """A leased job is over; `failed` says why when it has no result."""

    job_id: str
    failed: str = ""


# -- prefill worker -> decode worker ("notify finished") and back --------------------------------


class PrefillDone(Message, frozen=True):
    """The KV blocks of a job can be taken.

    Attributes:
        prefill_worker: index of the one that holds them.
        params: kv_transfer_params for the decode engine, as JSON.
        leased_ns: when the prefill worker had taken it.
        prefilled_ns: when its last block was there.
    """

    job_id: str
    prefill_worker: int
    params: bytes
    leased_ns: int
    prefilled_ns: int


class ReleaseTransfers(Message, frozen=True):
    """The KV blocks of these jobs were taken, or will not be."""

    job_ids: list[str]


# -- decode worker -> processor ------------------------------------------------------------------


class PrefilledElsewhere(Message, frozen=True):
    """A request goes on with KV blocks of a prefill worker; for the times see `Timeline`."""

    request_id: str
    prefill_worker: int
    pushed_ns: int
    leased_ns: int
    prefilled_ns: int


# -- prefill queue, prefill worker, decode worker -> frontend: telemetry -------------------------


class PrefillQueueStats(Message, frozen=True):
    """The queue now, and what it has done in this life.

    Attributes:
        depth_jobs, depth_tokens: that wait.
        in_flight_jobs, in_flight_tokens: that prefill workers have.
        oldest_age_s: of the oldest job that waits.
        alarm: that is too long.
        taken: jobs ever taken.
        ended, refused, returned: jobs by reason.
        waits_s: from push to lease, of the leases since the last report.
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
    """What a worker did for disaggregation in this life; by reason where a dict.

    Attributes:
        placements: prefills by ``remote:reason`` and ``local:reason`` (decode workers).
        fallbacks: remote prefills that were done locally after all (decode workers).
        away: requests that are being prefilled elsewhere now (decode workers).
        copies, nbytes, copy_s: of KV blocks, by direction (save, load).
        failures: transfers that came to nothing.
        arena_used_bytes, arena_bytes: of the shared memory (prefill workers).
        prefill_s: of the prefills since the last report (prefill workers).
        kept: of a decode worker what it remembers beside `away`: siblings that wait for a prompt,
            and who has blocks that were not taken; of a prefill worker the jobs that it has.
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
    arena_used_bytes: int
    arena_bytes: int
    prefill_s: list[float]
    kept: int = 0


class SetPlacement(Message, frozen=True):
    """Frontend -> decode worker: from now on decide by these bounds."""

    conditional: bool
    max_local_prefill_length: int
    max_prefill_queue_size: int | None
