"""What a policy sees and what it answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from dynamo_cli.messages.routing import Candidate
from dynamo_cli.router.pace import UNMEASURED, Prices


class Request(msgspec.Struct, frozen=True, gc=False):
    """What is to be placed.

    Attributes:
        prompt_blocks: that its prompt needs; the last one need not be full.
        block_size: tokens per block.
        blocks: sequence hashes of its full blocks.
        prices: what computing it would take.
    """

    prompt_tokens: int
    prompt_blocks: int
    block_size: int = 0
    blocks: Sequence[int] = ()
    prices: Prices = UNMEASURED


class WorkerLoad(msgspec.Struct, frozen=True, gc=False):
    """What a policy may know of one worker that can take the request.

    Attributes:
        worker: index.
        overlap_blocks: leading blocks of the request's prompt that are in its cache.
        active_requests: placed there and not ended.
        waiting_requests: of those, without a first token yet.
        prefill_blocks: that it has promised to compute for those.
        decode_blocks: that its active requests occupy.
        num_blocks: that its KV cache has; 0 where it has none.
        last_used: number of the decision that chose it last; smaller is longer ago.
        expected_blocks: leading blocks of the prompt that will be in its cache when the request's
            turn comes: those that are, or those of a prompt that it was given before.
        cached_blocks: that its cache holds, of any prompt.
        wait_s: until its prefill could begin.
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


@dataclass(frozen=True, slots=True)
class Choice:
    """The winner, every candidate with its cost, and what decided (see `RoutingDecision`)."""

    worker: int
    candidates: list[Candidate]
    reason: str = "cost"


Policy = Callable[[Request, Sequence[WorkerLoad]], Choice]
"""Chooses among at least one worker."""
