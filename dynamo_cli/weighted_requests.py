"""How loaded a worker is, counted in requests. Pure."""

from __future__ import annotations

WAITING_WEIGHT = 4
"""How many requests with a first token count as much as one without.

A request that waits for its first token still has its whole prefill to do. vLLM's balance between
data-parallel engines used the same weight (``DPLBAsyncMPClient.get_core_engine_for_request`` in
vllm/v1/engine/core_client.py, 0.10); in 0.32 it depends on how full the engine's cache is.
"""


def weighted_requests(active: int, waiting: int) -> int:
    """Return the number of requests of a worker, of which those that wait count `WAITING_WEIGHT`.

    Args:
        active: requests that it has.
        waiting: those of them without a first token.
    """
    return active + (WAITING_WEIGHT - 1) * waiting
