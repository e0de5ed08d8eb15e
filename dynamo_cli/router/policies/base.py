"""What a policy gets and what it returns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from dynamo_cli.messages.routing import Candidate, weighted_requests
from dynamo_cli.router.time_estimator import UNMEASURED, Prices


class Request(msgspec.Struct, frozen=True, gc=False):
    """A request to be placed.

    Attributes:
        prompt_tokens: length of its prompt.
        prompt_blocks: blocks that its prompt needs; the last one need not be full.
        block_size: tokens per block.
        blocks: sequence hashes of its full blocks.
        prices: current estimates of times.
    """

    prompt_tokens: int
    prompt_blocks: int
    block_size: int = 0
    blocks: Sequence[int] = ()
    prices: Prices = UNMEASURED


class WorkerLoad(msgspec.Struct, frozen=True, gc=False):
    """What a policy may know of one worker that can take the request.

    Attributes:
        worker: its index.
        overlap_blocks: leading blocks of the request's prompt that are in its cache, except those
            that will be evicted before the engine takes the request.
        active_requests: requests that were placed there and have not ended.
        waiting_requests: those of them without a first token.
        prefill_blocks: blocks that it has yet to compute for the waiting requests.
        decode_blocks: blocks that its active requests occupy.
        num_blocks: size of its KV cache in blocks; 0 if it has none.
        last_used: number of the decision that chose it last; smaller is longer ago.
        expected_blocks: leading blocks of the prompt that will be in its cache when the engine
            takes the request: those of `overlap_blocks`, or those of a prompt before it.
        cached_blocks: blocks of any prompt in its cache.
        wait_s: estimated time until the prefill could begin, seconds.
        host_blocks: leading blocks of the prompt that the worker can load from the host cache; 0
            for a worker that the host cache has refused.
        disk_blocks: how many of `host_blocks`, the last ones, are only on disk.
        load_s: estimated time to load the `host_blocks` beyond `expected_blocks`, seconds.
    """

    worker: int
    overlap_blocks: int = 0
    active_requests: int = 0
    waiting_requests: int = 0
    prefill_blocks: int = 0
    decode_blocks: int = 0
    num_blocks: int = 0
    last_used: int = 0
    expected_blocks: int = 0
    cached_blocks: int = 0
    wait_s: float = 0.0
    host_blocks: int = 0
    disk_blocks: int = 0
    load_s: float = 0.0

    @property
    def weighted_requests(self) -> int:
        """Its requests, of which those without a first token count for more."""
        return weighted_requests(self.active_requests, self.waiting_requests)

    @property
    def reached_blocks(self) -> int:
        """Leading blocks of the prompt that the worker need not compute."""
        return max(self.expected_blocks, self.host_blocks)


@dataclass(frozen=True, slots=True)
class Choice:
    """The result of a policy.

    Attributes:
        worker: index of the winner.
        candidates: every worker with its cost.
        reason: what decided, as in `RoutingDecision`.
    """

    worker: int
    candidates: list[Candidate]
    reason: str = "cost"


Policy = Callable[[Request, Sequence[WorkerLoad]], Choice]
"""Chooses one of the given workers, of which there is at least one."""
