"""Routing by the time that a choice costs, for this request and for all others.

The cost of a worker is the sum of these times:

wait             until the prefills that the worker was given before are done and enough blocks of
                 its cache are free, whichever takes longer
load             loading the part of this prompt that only the host cache has, if there is one
prefill          computing the rest of this prompt that the worker has not cached
queueing delay   by which this prefill delays other requests
eviction cost    computing again what this prefill evicts from the cache, with the delays of that
decode slowdown  by which answers take longer because the worker runs other requests too

*wait + load + prefill* is the time to the first token, which Mooncake's conductor minimises (Qin
et al., FAST'25, algorithm 1). Alone it is short-sighted: it computes a prefix again wherever that
is a little faster for this request, and the worker has no time for that work later. In a queue that
is busy for a share ``r`` of its time, added work delays the requests that arrive before the queue
is idle again by ``r / (1 - r)`` times itself in sum (mean queue with Poisson arrivals, served in
order). Besides, each stream on the worker stalls during the prefill. So a prefill also costs

    queueing delay = prefill * (r / (1 - r) + STALL_WEIGHT * mean number of streams of a worker)

This is almost nothing when all workers are idle, and many times the prefill itself near saturation:
then requests go where their prefix is, unless the queue there is long. Where the prefill is the
same on all workers, as with a system prompt that all of them hold, it makes no difference, and
*wait* balances the load.

In a full cache, computed blocks evict as many others. Of all computed tokens, a share ``l`` had
been computed before and was evicted since; that is the chance that what is evicted now will be
needed again. Computing it again evicts as much again, and so on: ``1 / (1 - l)`` times the work in
sum. A worker whose cache has free room evicts nothing, so that the caches of all workers are used.

A block counts as cached if the worker holds it now, or will have computed it when the engine takes
this request (`router.promised`). So a burst of requests with the same prefix stays together. It
does not count if it will be evicted before: if requests wait for memory in an engine, they take
every block that no request uses (`router.ledger.Ledger.remaining`).

With a host cache, what it holds can be loaded by every worker beyond what that worker has cached.
Copies run beside the steps of the engine, so they delay no other request there. But what they bring
evicts other blocks as computed ones do, and it takes room that requests with the same prefix would
share on one worker. Where room is short this delays others, as above: if requests hold a share
``h`` of the caches, one that loads a share ``b`` of a cache and keeps it for a time costs them

    queueing delay = b * time * h / (1 - h)

Without this, copies of one prefix fill the caches of all workers (in replays at saturation, first
tokens came later than if the router knew nothing of the host cache). Where there is room and
everything is in the host cache, all workers cost nearly the same, and the load decides.

All figures are measured while the router runs (`router.time_estimator`).
"""

from __future__ import annotations

from collections.abc import Sequence

from dynamo_cli.router.policies.base import Request, WorkerLoad
from dynamo_cli.router.time_estimator import MOST_BUSY, Prices, pairs

STALL_WEIGHT = 0.1
"""Cost of a second in which an answer stalls, relative to a second before its first token. Between
0.05 and 0.2 the results hardly change; 0 fails where streams fill the cache, and 1 fails with
hundreds of streams."""

MS = 1000
LOAD_MS = "load_ms"
"""Name of the term that only prompts have of which the host cache holds something."""


def time_cost(
    request: Request, loads: Sequence[WorkerLoad], weight: float
) -> list[dict[str, float]]:
    """Return the terms of each worker's cost, milliseconds.

    Args:
        request: the request to be placed.
        loads: the workers that can take it.
        weight: multiplies the time of computing the prompt, and of loading it.
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
    """Share of the worker's cache that another copy of what a host cache holds would take: whether
    it is loaded, or computed because the host cache is another machine's."""
    copied = in_host - load.expected_blocks
    return copied / load.num_blocks if copied > 0 and load.num_blocks else 0.0


def _held_s(prices: Prices, loads: Sequence[WorkerLoad]) -> float:
    """By how much a request that takes the whole cache delays others, which wait for room."""
    held = sum(load.decode_blocks for load in loads)
    share = min(held / max(sum(load.num_blocks for load in loads), 1), MOST_BUSY)
    return prices.held_s * share / (1 - share)


def _pushed_out(request: Request, load: WorkerLoad) -> float:
    """Share of the blocks to compute and to load for which other blocks must be evicted."""
    blocks = request.prompt_blocks - load.expected_blocks
    room = load.num_blocks - load.cached_blocks
    return min(max(blocks - room, 0) / blocks, 1.0) if blocks > 0 else 0.0
