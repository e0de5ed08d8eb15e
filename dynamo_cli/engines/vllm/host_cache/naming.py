"""Lets an engine's `Manager` give blocks the names by which the router knows them."""

from __future__ import annotations

from collections.abc import Sequence

from vllm.config import VllmConfig
from vllm.v1.core.kv_cache_utils import maybe_convert_block_hash
from vllm.v1.kv_offload.base import get_offload_block_hash

from dynamo_cli.engines.vllm.host_cache.manager import Manager, manager_of
from dynamo_cli.kv import hashes
from dynamo_cli.kv.holdings import Holdings


def connect(vllm_config: VllmConfig, holdings: Holdings | None) -> Manager:
    """Let the manager of this engine name blocks as the router does; return it.

    Args:
        holdings: what the engine's own cache holds, with the router's names (sequence hashes); None
            if the router does not use them.
    """
    manager = manager_of(vllm_config.kv_transfer_config.engine_id)
    if holdings is not None:

        def names(keys: Sequence[bytes]) -> tuple[bytes, bytes]:
            known = [
                holdings.name_of(maybe_convert_block_hash(get_offload_block_hash(key)))
                for key in keys
            ]
            return hashes.pack([block for block, _ in known]), hashes.pack(
                [parent for _, parent in known]
            )

        manager.names = names
    return manager
