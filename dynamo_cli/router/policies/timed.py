"""Routing by the time that a choice costs, for this request and for all others.

The cost of a worker is the sum of these times:

wait             the time until the prefills that the worker has are done and enough blocks of its
                 cache are free, whichever takes longer
load             the time to load blocks of this prompt that the host cache has and the worker has
                 not (only with a host cache)
prefill          the time to compute the rest of this prompt
queueing delay   the time by which this prefill delays other requests, in sum
eviction cost    the time to compute again, later, what this prefill evicts from the cache, with the
                 delays that this causes then
decode slowdown  the time by which answers take longer because the worker runs other requests too

*wait + load + prefill* is the time to the first token, which Mooncake's conductor minimises (Qin et
al., FAST'25, algorithm 1). To minimise it alone is short-sighted: a prefix would be computed again
wherever that is a little faster for this request, and other requests would wait for that work. If a
queue is busy for a share ``r`` of the time, added work delays the requests that come before the
queue is empty again. In sum it delays them by ``r / (1 - r)`` times the added work (mean of a queue
with Poisson arrivals, served in order). Besides, each stream on the worker stalls during the
prefill. So a prefill also costs

    queueing delay = prefill * (r / (1 - r) + STALL_WEIGHT * mean number of streams of a worker)

This delay is almost nothing when all workers are idle, and many times the prefill itself near
saturation: then requests go where their prefix is, unless the queue there is long. If the prefill
is the same on all workers, as with a system prompt that all of them hold, the delay is the same
too, and *wait* balances the load.

In a full cache, computed blocks evict as many others. Of all computed tokens, a share ``l`` had
been computed before and was evicted since. That share is taken as the probability that a block
which is evicted now will be needed again. To compute it again evicts as many blocks again, and so
on: in sum the work is ``l / (1 - l)`` times this prefill. A worker whose cache has free room evicts
nothing, so that the caches of all workers are used.

A block counts as cached if the worker holds it now, or will have computed it when the engine takes
this request (`router.promised`). So a burst of requests with the same prefix stays together. A
block does not count if it will be evicted before that: requests that wait in an engine for memory
take every block that no request uses (`router.ledger.Ledger.remaining`).

Every worker can load what the host cache holds and the worker has not cached. Copies run beside the
steps of the engine, so they delay no other request there. But the loaded blocks evict other blocks,
as computed ones do. They also take room: on one worker, requests with the same prefix would share
its blocks. If room is short this delays others, as above. If requests hold a share ``h`` of the
caches, a request that loads a share ``b`` of a cache and keeps it for a time delays them by

    queueing delay = b * time * h / (1 - h)

Without this term, copies of one prefix fill the caches of all workers: in replays at saturation,
first tokens came later than if the router knew nothing of the host cache. If there is room and the
host cache holds the whole prompt, all workers cost nearly the same, and the load decides.

All figures are measured while the router runs (`router.time_estimator`).
"""

from __future__ import annotations

from collections.abc import Sequence

from dynamo_cli.router.policies.base import Request, WorkerLoad
from dynamo_cli.router.time_estimator import MOST_BUSY, Prices, pairs

STALL_WEIGHT = 0.1
"""Cost of a second in which an answer stalls, relative to a second before its first token. Values
from 0.05 to 0.2 give nearly the same results in replays. With 0, results are bad if streams fill
the cache; with 1, if there are hundreds of streams."""

MS = 1000
LOAD_MS = "load_ms"
"""Name of the term for loading. Only prompts have it of which a host cache holds some blocks."""


def time_cost(
    request: Request, loads: Sequence[WorkerLoad], weight: float
) -> list[dict[str, float]]:
    """Return the terms of each worker's cost, milliseconds.

    Args:
        request: the request to be placed.
        loads: the workers that can take it.
        weight: multiplies the times to compute and to load the prompt; 1 by default.
    """
    prices = request.prices
    streams = sum(load.active_requests - load.waiting_requests for load in loads) / len(loads)
    lost = prices.lost_share / (1 - prices.lost_share)
    delayed = prices.busy_share / (1 - prices.busy_share) + STALL_WEIGHT * streams
    in_host = max(load.host_blocks for load in loads)
    held_s = _held_s(prices, loads) if in_host else 0.0
    terms = []
    for load in loads:
        cached = load.reached_blocks * request.block_size
        computed = max(request.prompt_tokens - cached, 0)
        loading = MS * weight * load.load_s
        prefill = MS * weight * prices.prefill_s(1, computed, pairs(computed, cached))
        room = MS * weight * held_s * _copied(load, in_host) if in_host else 0.0
        again = (loading + prefill * (1 + delayed)) * lost
        terms.append(
            {
                "wait_ms": MS * load.wait_s,
                **({LOAD_MS: loading} if in_host else {}),
                "prefill_ms": prefill,
                "queueing_delay_ms": prefill * delayed + room,
                "eviction_cost_ms": again * _pushed_out(request, load),
                "decode_slowdown_ms": MS * prices.decode_slowdown_s * load.active_requests,
            }
        )
    return terms


def _copied(load: WorkerLoad, in_host: int) -> float:
    """Share of the worker's cache that a copy of the prefix in a host cache would take.

    It takes that room if it is loaded, and also if it is computed because the host cache is on
    another machine.
    """
    copied = in_host - load.expected_blocks
    return copied / load.num_blocks if copied > 0 and load.num_blocks else 0.0


def _held_s(prices: Prices, loads: Sequence[WorkerLoad]) -> float:
    """By how much a request that takes a whole cache delays others that wait for room, seconds."""
    held = sum(load.decode_blocks for load in loads)
    share = min(held / max(sum(load.num_blocks for load in loads), 1), MOST_BUSY)
    return prices.held_s * share / (1 - share)


def _pushed_out(request: Request, load: WorkerLoad) -> float:
    """For which share of the blocks to compute and to load another block must be evicted.

    Prompts that wait will take the blocks that they need, and each answer that runs has a block
    that is not full yet. The index shows none of these, but they are not free.
    """
    blocks = request.prompt_blocks - load.expected_blocks
    taken = load.prefill_blocks + load.active_requests - load.waiting_requests
    room = load.num_blocks - load.cached_blocks - taken
    return min(max(blocks - room, 0) / blocks, 1.0) if blocks > 0 else 0.0
