"""Messages about a simulated engine: its sizes, its load, its transfers. Pure."""

from __future__ import annotations

from typing import Any

from dynamo_cli.engines.mock.profile import Profile
from dynamo_cli.engines.mock.state import SimEngine
from dynamo_cli.messages.prefill import TransferStats
from dynamo_cli.messages.request import EngineReady
from dynamo_cli.messages.telemetry import CacheFacts, EngineCounts, WorkerStats

PLANE = "simulated"
"""Name of the way in which KV blocks get from one simulated engine to another, in metrics."""


def ready(worker: int, profile: Profile) -> EngineReady:
    """The message which says that the engine can take requests."""
    return EngineReady(
        worker=worker,
        tasks=["generate"],
        max_model_len=profile.max_model_len,
        block_size=profile.block_size,
        num_blocks=profile.num_blocks,
        max_num_seqs=profile.max_num_seqs,
        cache=CacheFacts(
            settings={
                "block_size": str(profile.block_size),
                "num_gpu_blocks": str(profile.num_blocks),
            }
        ),
    )


def stats(
    worker: int, engine: SimEngine, sent_ns: int, *, moving: int = 0, refused_sends: int = 0
) -> WorkerStats:
    """The load of an engine, and its counters.

    Args:
        sent_ns: the time now, on the monotonic clock.
        moving: number of requests that wait for KV blocks of a prefill worker.
        refused_sends: messages that full links have refused.
    """
    totals = engine.totals
    return WorkerStats(
        worker=worker,
        num_running_reqs=engine.num_running,
        num_waiting_reqs=engine.num_waiting + moving,
        kv_cache_usage=engine.blocks.usage,
        prefix_cache_queries_tokens=totals.queries,
        prefix_cache_hits_tokens=totals.hits,
        prompt_tokens=totals.prompt_tokens,
        output_tokens=totals.output_tokens,
        preemptions=totals.preemptions,
        steps=totals.steps,
        refused_sends=refused_sends,
        sent_ns=sent_ns,
        num_deferred_reqs=moving,
        counts=EngineCounts(
            tuple(totals.step_tokens), totals.step_tokens_sum, totals.hits, totals.loaded
        ),
    )


def transfers(
    worker: int, *, prefill: bool, copies: int = 0, copy_s: float = 0.0, **counted: Any
) -> TransferStats:
    """Counters of an engine's transfers.

    Args:
        copies: number of transfers to this engine.
        copy_s: how long these took together.
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
        **(nothing | counted),
    )
