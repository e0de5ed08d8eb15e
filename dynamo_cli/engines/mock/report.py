"""What a simulated engine says of itself, to whoever drives it. Pure."""

from __future__ import annotations

from typing import Any

from dynamo_cli.engines.mock.profile import Profile
from dynamo_cli.engines.mock.state import SimEngine
from dynamo_cli.messages.prefill import TransferStats
from dynamo_cli.messages.request import EngineReady
from dynamo_cli.messages.telemetry import WorkerStats

PLANE = "simulated"
"""How KV blocks get from one simulated engine to another."""


def ready(worker: int, profile: Profile) -> EngineReady:
    """It can take requests."""
    return EngineReady(
        worker=worker,
        tasks=["generate"],
        max_model_len=profile.max_model_len,
        block_size=profile.block_size,
        num_blocks=profile.num_blocks,
        max_num_seqs=profile.max_num_seqs,
    )


def stats(
    worker: int, engine: SimEngine, sent_ns: int, *, moving: int = 0, refused_sends: int = 0
) -> WorkerStats:
    """Its load and its counters.

    Args:
        moving: requests whose blocks are on their way; they wait too.
    """
    totals = engine.totals
    return WorkerStats(
        worker=worker,
        num_running_reqs=engine.num_running,
        num_waiting_reqs=len(engine.waiting) + moving,
        kv_cache_usage=engine.blocks.usage,
        prefix_cache_queries_tokens=totals.queries,
        prefix_cache_hits_tokens=totals.hits,
        prompt_tokens=totals.prompt_tokens,
        output_tokens=totals.output_tokens,
        preemptions=totals.preemptions,
        steps=totals.steps,
        refused_sends=refused_sends,
        sent_ns=sent_ns,
    )


def transfers(
    worker: int, *, prefill: bool, copies: int = 0, copy_s: float = 0.0, **counted: Any
) -> TransferStats:
    """Its counters of transfers.

    Args:
        counted: fields that the worker itself counts.
    """
    nothing: dict[str, Any] = {"placements": {}, "fallbacks": {}, "away": 0, "prefill_s": []}
    return TransferStats(
        prefill=prefill,
        worker=worker,
        copies={PLANE: copies},
        nbytes={},
        copy_s={PLANE: copy_s},
        failures={},
        arena_used_bytes=0,
        arena_bytes=0,
        **(nothing | counted),
    )
