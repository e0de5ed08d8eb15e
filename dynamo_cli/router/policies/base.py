"""What a policy sees and what it answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dynamo_cli.messages import Candidate


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be placed.

    Attributes:
        prompt_blocks: that its prompt needs; the last one need not be full.
    """

    prompt_tokens: int
    prompt_blocks: int


@dataclass(frozen=True, slots=True)
class WorkerLoad:
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
    """

    worker: int
    overlap_blocks: int = 0
    active_requests: int = 0
    waiting_requests: int = 0
    prefill_blocks: int = 0
    decode_blocks: int = 0
    num_blocks: int = 0
    last_used: int = 0


@dataclass(frozen=True, slots=True)
class Choice:
    """The winner, every candidate with its cost, and what decided (see `RoutingDecision`)."""

    worker: int
    candidates: list[Candidate]
    reason: str = "cost"


Policy = Callable[[Request, Sequence[WorkerLoad]], Choice]
"""Chooses among at least one worker."""
