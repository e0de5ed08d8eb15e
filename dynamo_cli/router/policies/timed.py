"""Routing by the time that a choice takes, for this request and for all others.

The cost of a worker is the sum of five times:

wait      until the prefills that it was given before are done
prefill   computing what it does not hold of this prompt
others    by which the prefill delays other requests
evicted   for computing again what it pushes out of the cache, and for the delays by that
company   by which the answer takes longer for those that the worker runs already

*wait + prefill* is the time to the first token, which Mooncake's conductor minimises (Qin et al.,
FAST'25, algorithm 1). Alone it is short-sighted: it computes a prefix anew wherever that is a
little faster for the one who asks, and the work is missing later. Work that is added to a queue
which is busy for a share ``r`` of its time delays those who come before it is idle again by
``r / (1 - r)`` of itself, all together (the mean queue with Poisson arrivals, served in order), and
each of the streams on the worker stalls while it prefills. So a prefill costs

    others = prefill * (r / (1 - r) + STALL_WEIGHT * mean number of streams of a worker)

on top: next to nothing when all are idle, and near saturation many times the prefill itself, so
that requests go where their prefix is unless the queue there is long. Where work is the same
everywhere, as with a system prompt that all hold, it decides nothing, and *wait* balances.

What is computed pushes as much out of the cache. Of what is computed, a share ``l`` has been
computed before and lost since, which is the chance that what is pushed out now will be missed;
then it pushes out as much again, and so on: ``1 / (1 - l)`` times the work in the end. A worker
whose cache has room left loses nothing, so that all caches are used.

What is cached is what is held now or will have been computed by the time the request's turn comes
(`router.promised`), so that a burst of siblings stays together.

All figures are measured while the router runs (`router.pace`).
"""

from __future__ import annotations

from collections.abc import Sequence

from dynamo_cli.router.pace import pairs
from dynamo_cli.router.policies.base import Request, WorkerLoad

STALL_WEIGHT = 0.1
"""What a second without a token costs within an answer, beside one before its first token. From
0.05 to 0.2 hardly anything changes; 0 breaks down where streams fill the cache, 1 where they are
hundreds."""

MS = 1000


def time_cost(
    request: Request, loads: Sequence[WorkerLoad], weight: float
) -> list[dict[str, float]]:
    """Milliseconds, by name; `weight` multiplies what computing the prompt costs."""
    prices = request.prices
    streams = sum(load.active_requests - load.waiting_requests for load in loads) / len(loads)
    lost = prices.lost_share / (1 - prices.lost_share)
    others = prices.busy_share / (1 - prices.busy_share) + STALL_WEIGHT * streams
    terms = []
    for load in loads:
        cached = load.expected_blocks * request.block_size
        computed = max(request.prompt_tokens - cached, 0)
        prefill = MS * weight * prices.prefill_s(1, computed, pairs(computed, cached))
        terms.append(
            {
                "wait_ms": MS * load.wait_s,
                "prefill_ms": prefill,
                "others_ms": prefill * others,
                "evicted_ms": prefill * (1 + others) * lost * _pushed_out(request, load),
                "company_ms": MS * prices.company_s * load.active_requests,
            }
        )
    return terms


def _pushed_out(request: Request, load: WorkerLoad) -> float:
    """Share of the blocks to compute for which others have to go."""
    blocks = request.prompt_blocks - load.expected_blocks
    room = load.num_blocks - load.cached_blocks
    return min(max(blocks - room, 0) / blocks, 1.0) if blocks > 0 else 0.0
