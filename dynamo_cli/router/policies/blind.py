"""Policies that do not look at caches."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dynamo_cli.messages.routing import WAITING_WEIGHT, Candidate
from dynamo_cli.router.policies.base import Choice, Request, WorkerLoad


def choose_random(
    request: Request, loads: Sequence[WorkerLoad], pick: Callable[[int], int]
) -> Choice:
    """Choose a worker at random, each with the same probability.

    Args:
        pick: returns a random whole number below its argument.
    """
    candidates = [Candidate(load.worker, 0.0, load.overlap_blocks, {}) for load in loads]
    return Choice(loads[pick(len(loads))].worker, candidates)


def choose_round_robin(request: Request, loads: Sequence[WorkerLoad]) -> Choice:
    """Choose the worker that was chosen least recently, so that workers take turns."""
    winner = min(loads, key=lambda load: (load.last_used, load.worker))
    candidates = [
        Candidate(
            load.worker, float(load.last_used), load.overlap_blocks, {"last_used": load.last_used}
        )
        for load in loads
    ]
    return Choice(winner.worker, candidates)


def choose_least_loaded(request: Request, loads: Sequence[WorkerLoad]) -> Choice:
    """Choose the worker with the fewest requests; among equals the least recently chosen.

    A request that waits for its first token counts as `WAITING_WEIGHT` others.
    """
    winner = min(loads, key=lambda load: (load.weighted_requests, load.last_used, load.worker))
    candidates = [
        Candidate(
            load.worker,
            float(load.weighted_requests),
            load.overlap_blocks,
            {
                "running_requests": load.active_requests - load.waiting_requests,
                "weighted_waiting_requests": WAITING_WEIGHT * load.waiting_requests,
            },
        )
        for load in loads
    ]
    return Choice(winner.worker, candidates)
