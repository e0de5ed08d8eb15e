"""Where a request is prefilled: by its decode worker, or by a prefill worker. Pure."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from dynamo_cli.config import PlacementRule

JOBS_PER_PREFILL_WORKER = 2
"""Default limit of the queue: this many jobs for each prefill worker."""

BATCHES_AHEAD = 4
"""A prefill worker pulls jobs for this many full steps, so that it never waits for the prefill
queue."""


class PlacementReason(StrEnum):
    """Why a prompt is prefilled where it is: remotely for `ALWAYS` and `LONG`, locally for all
    others."""

    ALWAYS = "always"
    LONG = "long"
    NO_PREFILL_WORKER = "no_prefill_worker"
    SHORT = "short"
    HOST_CACHE = "host_cache"
    QUEUE_FULL = "queue_full"
    UNSUITABLE = "unsuitable"
    PUSH_REFUSED = "push_refused"
    SIBLING = "sibling"
    NO_ROOM = "no_room"


class Where(NamedTuple):
    """Where a prompt is prefilled, and why there."""

    remote: bool
    reason: PlacementReason


def decide(
    rule: PlacementRule,
    prompt_tokens: int,
    cached_tokens: int,
    queue_depth: int,
    prefill_workers: int,
    room_tokens: int | None = None,
    known_tokens: int = 0,
) -> Where:
    """Decide where to prefill a prompt, by the rule of NVIDIA Dynamo's conditional disaggregation.

    Args:
        rule: the bounds in force.
        prompt_tokens: length of the prompt.
        cached_tokens: how much of it is in the prefix cache of the decode worker.
        queue_depth: jobs that wait in the prefill queue, with those that were just pushed to it.
        prefill_workers: number of prefill workers that take jobs now.
        room_tokens: longest prompt whose blocks can be handed over; None if there is no limit.
        known_tokens: how much of the prompt need not be computed, because the decode worker has it
            or can load it from the host cache. It matters only for a prompt that would be `LONG` if
            nothing could be loaded.
    """
    if not prefill_workers:
        return Where(False, PlacementReason.NO_PREFILL_WORKER)
    if room_tokens is not None and prompt_tokens > room_tokens:
        return Where(False, PlacementReason.NO_ROOM)
    if not rule.conditional:
        return Where(True, PlacementReason.ALWAYS)
    if prompt_tokens - cached_tokens <= rule.max_local_prefill_length:
        return Where(False, PlacementReason.SHORT)
    if queue_depth >= _queue_limit(rule, prefill_workers):
        return Where(False, PlacementReason.QUEUE_FULL)
    long = prompt_tokens - known_tokens > rule.max_local_prefill_length
    return Where(long, PlacementReason.LONG if long else PlacementReason.HOST_CACHE)


def _queue_limit(rule: PlacementRule, prefill_workers: int) -> int:
    if rule.max_prefill_queue_size is None:
        return JOBS_PER_PREFILL_WORKER * prefill_workers
    return rule.max_prefill_queue_size
