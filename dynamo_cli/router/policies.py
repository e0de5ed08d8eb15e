"""Policies: candidates in, one `Choice` out. Pure; lower cost wins."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dynamo_cli.messages import Candidate


@dataclass(frozen=True, slots=True)
class WorkerLoad:
    """What a policy may know of one worker that can take the request.

    Attributes:
        worker: index.
        active_requests: placed there and not ended.
        active_prefill_tokens: of those, prompt tokens of requests without a first token yet.
        last_used: number of the decision that chose it last; smaller is longer ago.
    """

    worker: int
    active_requests: int
    active_prefill_tokens: int
    last_used: int


@dataclass(frozen=True, slots=True)
class Choice:
    """The winner, and every candidate with its cost."""

    worker: int
    candidates: list[Candidate]


Policy = Callable[[Sequence[WorkerLoad]], Choice]
"""Chooses among at least one worker."""


def choose_random(
    loads: Sequence[WorkerLoad], pick: Callable[[int], int] = random.randrange
) -> Choice:
    """Any worker, all alike."""
    candidates = [Candidate(load.worker, 0.0, {}) for load in loads]
    return Choice(loads[pick(len(loads))].worker, candidates)


def choose_round_robin(loads: Sequence[WorkerLoad]) -> Choice:
    """The one whose turn is longest ago: with all workers up, each in turn."""
    return _lowest(loads, lambda load: {"last_used": float(load.last_used)})


def choose_least_loaded(loads: Sequence[WorkerLoad]) -> Choice:
    """The fewest requests; among equals the least recently used."""
    return _lowest(loads, lambda load: {"active_requests": float(load.active_requests)})


def _lowest(loads: Sequence[WorkerLoad], terms: Callable[[WorkerLoad], dict[str, float]]) -> Choice:
    scored = [(load, terms(load)) for load in loads]
    winner, _ = min(
        scored, key=lambda pair: (sum(pair[1].values()), pair[0].last_used, pair[0].worker)
    )
    candidates = [Candidate(load.worker, sum(parts.values()), parts) for load, parts in scored]
    return Choice(winner.worker, candidates)


POLICIES: dict[str, Policy] = {
    "random": choose_random,
    "round-robin": choose_round_robin,
    "least-loaded": choose_least_loaded,
}
