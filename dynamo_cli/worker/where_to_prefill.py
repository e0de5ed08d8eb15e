"""Where a request is prefilled: by its decode worker, or by a prefill worker. Pure."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from dynamo_cli.config import PlacementRule

JOBS_PER_PREFILL_WORKER = 2
BATCHES_AHEAD = 4
"""A prefill worker pulls jobs for so many full steps: it shall never wait for the queue."""


class Reason(StrEnum):
    """Why a prefill is where it is: the first two are remote, the others local."""

    ALWAYS = "always"
    LONG = "long"
    NO_PREFILL_WORKER = "no_prefill_worker"
    SHORT = "short"
    QUEUE_FULL = "queue_full"
    UNSUITABLE = "unsuitable"
    PUSH_REFUSED = "push_refused"
    SIBLING = "sibling"


class Where(NamedTuple):
    """The answer, and why."""

    remote: bool
    reason: Reason


def decide(
    rule: PlacementRule,
    prompt_tokens: int,
    cached_tokens: int,
    queue_depth: int,
    prefill_workers: int,
) -> Where:
    """Where to prefill a prompt of which `cached_tokens` are in the decode worker's cache.

    The rule of NVIDIA Dynamo's conditional disaggregation.

    Args:
        queue_depth: jobs that wait, the ones just pushed included.
        prefill_workers: that are there now.
    """
    if not prefill_workers:
        return Where(False, Reason.NO_PREFILL_WORKER)
    if not rule.conditional:
        return Where(True, Reason.ALWAYS)
    if prompt_tokens - cached_tokens <= rule.max_local_prefill_length:
        return Where(False, Reason.SHORT)
    limit = rule.max_prefill_queue_size
    if limit is None:
        limit = JOBS_PER_PREFILL_WORKER * prefill_workers
    if queue_depth >= limit:
        return Where(False, Reason.QUEUE_FULL)
    return Where(True, Reason.LONG)
