"""Routing by cached prefixes and load."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dynamo_cli.config import BLOCKS, SHARES, TIME
from dynamo_cli.messages.routing import Candidate
from dynamo_cli.router.policies.base import Choice, Request, WorkerLoad
from dynamo_cli.router.policies.timed import time_cost

COST, NO_OVERLAP = "cost", "no_overlap"

LOADED_COST = 0.1
"""Cost of a block that is loaded from the host cache, relative to a block that is computed. Used by
the costs that count blocks instead of time."""

Terms = dict[str, float]
Cost = Callable[[Request, Sequence[WorkerLoad], float], list[Terms]]
"""Takes the request, the workers and the weight of cached blocks; returns the terms of each
worker's cost, by name. A cost is the sum of its terms."""


def blocks_cost(request: Request, loads: Sequence[WorkerLoad], weight: float) -> list[Terms]:
    """Blocks that each worker would have to prefill and to keep if it got the request.

    ``weight * max(active prefill blocks + prompt blocks - overlap, 0) + active decode blocks +
    incoming blocks``, lowest wins: the cost function of NVIDIA Dynamo 1.x's KV router
    (``lib/llm/src/kv_router``, ``prefill_load_scale``). Dynamo counts a block that several
    requests share once; here it counts once from the worker's next report on (`Ledger.report`).
    """
    return [
        {
            "prefill": weight * max(load.prefill_blocks + request.prompt_blocks - _spared(load), 0),
            "decode": load.decode_blocks,
            "incoming": request.prompt_blocks,
        }
        for load in loads
    ]


def shares_cost(request: Request, loads: Sequence[WorkerLoad], weight: float) -> list[Terms]:
    """Three shares: of the prompt that is cached, of the cache that is used, and of the queue.

    ``2 * matched tokens / prompt tokens - KV usage - waiting / max(waiting)``, highest wins: the
    KV router of the first NVIDIA Dynamo (March 2025, ``examples/llm/components/kv_router.py``).
    Here the sign is reversed, so that the lowest cost wins. In that router, load figures were out
    of date during a burst; here they come from the ledger, which counts each request at once.
    """
    most_waiting = max(load.waiting_requests for load in loads) or 1
    return [
        {
            "overlap": -2 * weight * _spared(load) / max(request.prompt_blocks, 1),
            "kv_usage": min(load.decode_blocks / load.num_blocks, 1.0) if load.num_blocks else 0.0,
            "waiting": load.waiting_requests / most_waiting,
        }
        for load in loads
    ]


def _spared(load: WorkerLoad) -> float:
    """Blocks of the prompt that the worker need not compute; blocks to load count a little less."""
    loaded = max(load.host_blocks - load.overlap_blocks, 0)
    return load.overlap_blocks + (1 - LOADED_COST) * loaded


COSTS: dict[str, Cost] = {TIME: time_cost, BLOCKS: blocks_cost, SHARES: shares_cost}


@dataclass(frozen=True, slots=True)
class KvPolicy:
    """Chooses the lowest cost.

    The reason of a choice is `NO_OVERLAP` if neither a worker nor the host cache holds any of the
    prompt, so that every worker would compute all of it.

    Attributes:
        cost: a key of `COSTS`.
        overlap_weight: weight of cached blocks relative to load; 1 is as published.
        temperature: 0 chooses the lowest cost; above 0 the choice is random, and a lower cost is
            more likely.
        dice: returns random numbers in 0..1.
    """

    cost: str = TIME
    overlap_weight: float = 1.0
    temperature: float = 0.0
    dice: Callable[[], float] = random.random

    def __call__(self, request: Request, loads: Sequence[WorkerLoad]) -> Choice:
        known = [self._known_blocks(load) for load in loads]
        terms = COSTS[self.cost](request, loads, self.overlap_weight)
        costs = [sum(parts.values()) for parts in terms]
        place = self._sample(costs) if self.temperature > 0 else _lowest(loads, costs, known)
        candidates = [
            Candidate(load.worker, cost, load.overlap_blocks, parts)
            for load, cost, parts in zip(loads, costs, terms, strict=True)
        ]
        found = any(known) or any(load.host_blocks for load in loads)
        return Choice(loads[place].worker, candidates, COST if found else NO_OVERLAP)

    def _known_blocks(self, load: WorkerLoad) -> int:
        """Leading blocks of the prompt that the chosen cost counts as cached."""
        return load.expected_blocks if self.cost == TIME else load.overlap_blocks

    def _sample(self, costs: Sequence[float]) -> int:
        """Draw by a softmax over the costs, scaled to a range of 1, as in NVIDIA Dynamo's
        router."""
        lowest = min(costs)
        scale = self.temperature * ((max(costs) - lowest) or 1.0)
        weights = [math.exp((lowest - cost) / scale) for cost in costs]
        left = self.dice() * sum(weights)
        for place, weight in enumerate(weights):
            left -= weight
            if left < 0:
                return place
        return len(weights) - 1


def _lowest(loads: Sequence[WorkerLoad], costs: Sequence[float], known: Sequence[int]) -> int:
    """Index of the worker with the lowest cost; among equals the one that has more of the prompt,
    then the one that was chosen least recently."""

    def rank(place: int) -> tuple[float, int, int]:
        return (costs[place], -known[place], loads[place].last_used)

    return min(range(len(loads)), key=rank)
