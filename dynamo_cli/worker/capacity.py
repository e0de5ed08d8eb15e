"""Says in words how much fits into an engine's KV cache. Pure."""

from __future__ import annotations

from dynamo_cli.messages.request import EngineReady


def capacity(ready: EngineReady) -> str:
    """The capacity of the KV cache in words; empty for an engine without a cache.

    The log shows it when the engine is loaded.
    """
    tokens = ready.cache.tokens or ready.num_blocks * ready.block_size
    if not tokens or not ready.max_model_len:
        return ""
    fit = ready.cache.full_length_requests or tokens / ready.max_model_len
    number = f"{fit:.1f}" if fit < 10 else f"{fit:,.0f}"
    return (
        f"KV cache of {tokens:,} tokens, room for {number} requests of full length "
        f"({ready.max_model_len:,} tokens)"
    )
