"""Upper bounds for numbers in options, beyond which a number is a typing error. Pure."""

from __future__ import annotations

from dynamo_cli.config import FORMER_KV_COSTS, KV_COSTS, MOST_WORKERS
from dynamo_cli.topology import MAX_MESSAGE_BYTES

MAX_PROCESSES = MOST_WORKERS
"""For workers, prefill workers, processors and ranks, each of which is at least one process."""

MAX_THREADS = 4096
MAX_SECONDS = 7 * 86_400.0
MAX_MILLISECONDS = MAX_SECONDS * 1000
MAX_FACTOR = 1e6
"""For speeds and weights; with infinite ones, costs would be NaN."""

MAX_COUNT = 10**9
"""For requests, jobs and tokens."""

MAX_BODY_BYTES = MAX_MESSAGE_BYTES // 2
"""A body is one message to a processor, with what its request was answered so far if it moves."""


def kv_cost(text: str) -> str:
    """Read a value of ``--kv-cost``. Its former names are taken too, but shown nowhere.

    Raises:
        ValueError: there is no such cost.
    """
    cost = FORMER_KV_COSTS.get(text, text)
    if cost not in KV_COSTS:
        raise ValueError(f"{text!r} is not one of {', '.join(map(repr, KV_COSTS))}.")
    return cost
