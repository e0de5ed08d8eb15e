"""Applies vLLM's KV cache events to `Holdings`, and computes the same hashes for new prompts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from vllm.config import KVEventsConfig, VllmConfig
from vllm.distributed.kv_events import (
    AllBlocksCleared,
    BlockRemoved,
    BlockStored,
    EventPublisher,
    EventPublisherFactory,
)
from vllm.v1.core.kv_cache_utils import generate_block_hash_extra_keys, to_event_extra_keys
from vllm.v1.engine import EngineCoreRequest
from vllm.v1.engine.core import EngineCore

from dynamo_cli.kv import hashes
from dynamo_cli.kv.hashes import ExtraKeys
from dynamo_cli.kv.holdings import Holdings

PUBLISHER = "dynamo-llm"
WHOLE_PREFIX_KINDS = ("full_attention", "mla_attention", "sink_full_attention")
"""vLLM's kinds of cache groups that keep every block of a prefix; other kinds keep only some."""


class _Keep(EventPublisher):  # type: ignore[misc]
    """A publisher that keeps events until `CacheEvents.take`."""

    def __init__(self, data_parallel_rank: int = 0, **_: Any) -> None:
        super().__init__(data_parallel_rank)
        self.kept: list[Any] = []

    def publish(self, events: Any) -> None:
        self.kept += events.events

    def shutdown(self) -> None:
        """Nothing to close."""


def enable(vllm_config: VllmConfig) -> None:
    """Let an engine with this configuration publish its KV events to us."""
    if PUBLISHER not in EventPublisherFactory._registry:
        EventPublisherFactory.register_publisher(PUBLISHER, _Keep)
    vllm_config.kv_events_config = KVEventsConfig(enable_kv_cache_events=True, publisher="null")
    # The type of the field allows vLLM's own publishers only; the factory also knows ours.
    vllm_config.kv_events_config.publisher = PUBLISHER


class CacheEvents:
    """The KV events of one engine.

    Attributes:
        holdings: what its prefix cache holds.
    """

    def __init__(self, core: EngineCore) -> None:
        self._manager = core.scheduler.kv_cache_manager
        self._publisher: _Keep = core.scheduler.kv_event_publisher
        self._group, block_size = _prefix_group(core)
        self.holdings = Holdings(block_size)

    def take(self) -> None:
        """Apply all events since the last call to the holdings."""
        # The manager still has the events that were not part of a step, such as a reset.
        events = self._publisher.kept + self._manager.take_events()
        self._publisher.kept = []
        for event in events:
            self._apply(event)

    def _apply(self, event: Any) -> None:
        match event:
            case AllBlocksCleared():
                self.holdings.clear()
            case BlockStored() if event.group_idx == self._group:
                self.holdings.store(
                    event.block_hashes,
                    event.parent_block_hash,
                    event.token_ids,
                    event.extra_keys or (),
                )
            case BlockRemoved() if event.group_idx == self._group:
                self.holdings.remove(event.block_hashes)


def _prefix_group(core: EngineCore) -> tuple[int, int]:
    """Index and block size of the cache group whose events are used: one that keeps all blocks of a
    prefix, if there is one."""
    groups = core.get_kv_cache_group_metadata()
    whole = [group for group in groups if group["kind"] in WHOLE_PREFIX_KINDS]
    chosen = (whole or groups)[0]
    return int(chosen["group_idx"]), int(chosen["block_size"])


def sequence_hashes(request: EngineCoreRequest, tokens: bytes, block_size: int) -> list[int]:
    """Sequence hashes of a prompt's full blocks, equal to those made from an engine's events.

    Args:
        request: the request; its adapter, salt and images go into the hashes too.
        tokens: the prompt, little-endian int32.
        block_size: tokens per block; 0 gives no hashes.
    """
    if not block_size or not tokens:
        return []
    return hashes.chain(tokens, block_size, _extra_keys(request, tokens, block_size))


def _extra_keys(request: EngineCoreRequest, tokens: bytes, block_size: int) -> list[ExtraKeys]:
    """What goes into each block's hash besides its tokens, in the form that vLLM's events have."""
    if not (request.lora_request or request.cache_salt or request.mm_features):
        return []
    # vLLM's function takes a request of its scheduler, but reads only these fields.
    keyed = SimpleNamespace(
        mm_features=request.mm_features,
        lora_request=request.lora_request,
        cache_salt=request.cache_salt,
        prompt_embeds=None,
    )
    keys: list[ExtraKeys] = []
    image = 0
    for end in range(block_size, len(tokens) // hashes.TOKEN_BYTES + 1, block_size):
        tagged, image = generate_block_hash_extra_keys(keyed, end - block_size, end, image)
        keys.append(to_event_extra_keys([tagged])[0])
    return keys
