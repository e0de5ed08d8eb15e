"""vLLM's interface to KV transfer: what its scheduler asks, and what its model runner does.

vLLM makes two connectors of an engine, one in its scheduler and one in its worker. Both are in one
process (see `check`) and share a `Transfers`.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from vllm.config import VllmConfig
from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorMetadata,
    KVConnectorRole,
    KVConnectorTransferResults,
)
from vllm.v1.kv_cache_interface import KVCacheConfig
from vllm.v1.request import Request, RequestStatus

from dynamo_cli.engines.vllm.transfer.arena import ArenaRef
from dynamo_cli.engines.vllm.transfer.copier import Copy
from dynamo_cli.engines.vllm.transfer.planes import planes_of
from dynamo_cli.engines.vllm.transfer.transfers import GAP, NOT_COMPUTED, transfers_of
from dynamo_cli.errors import ModelError, UsageError


def check(vllm_config: VllmConfig) -> None:
    """Check before an engine is built that KV transfer is possible, for a clear error message.

    Raises:
        UsageError: the engine would have several processes.
    """
    if vllm_config.parallel_config.distributed_executor_backend != "uni":
        raise UsageError(
            "--kv-transfer shm is for engines of one GPU and one process; "
            "use --kv-transfer nixl, or leave out --prefill-workers."
        )


class ShmConnector(KVConnectorBase_V1):  # type: ignore[misc]
    """Moves KV blocks through an `Arena`, for engines with one rank and one kind of cache.

    Raises:
        ModelError: the model has several kinds of cache.
    """

    def __init__(
        self, vllm_config: VllmConfig, role: KVConnectorRole, kv_cache_config: KVCacheConfig
    ) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        if len(kv_cache_config.kv_cache_groups) > 1:
            raise ModelError(
                "--kv-transfer shm cannot handle models with several kinds of cache; "
                "use --kv-transfer nixl, or leave out --prefill-workers."
            )
        self._block_size: int = vllm_config.cache_config.block_size
        self._shared = transfers_of(vllm_config)

    # -- in the scheduler ----------------------------------------------------------------------

    def get_num_new_matched_tokens(
        self, request: Request, num_computed_tokens: int
    ) -> tuple[int, bool]:
        """How many tokens can be loaded beyond the cached ones, and whether asynchronously."""
        params = request.kv_transfer_params or {}
        if not params.get("do_remote_prefill"):
            return 0, False
        if num_computed_tokens // self._block_size < self._skipped(params):
            # A part of the prefix that needed no transfer was evicted meanwhile.
            self._shared.failures[GAP] += 1
            self._give_up(params)
            return 0, False
        # If the request is resumed, more tokens than those of its prompt may be cached.
        missing = max(request.num_prompt_tokens - num_computed_tokens, 0)
        return missing, missing > 0

    def update_state_after_alloc(
        self, request: Request, blocks: Any, num_external_tokens: int
    ) -> None:
        """Begin to load into the blocks that vLLM has just allocated.

        This need not wait for the end of the step that is being scheduled: vLLM gives blocks to a
        loading request only when no running step writes to them any more.
        """
        params = request.kv_transfer_params or {}
        if not params.get("do_remote_prefill"):
            return
        if not num_external_tokens:
            self._give_up(params)
            return
        assert self._shared.copier is not None
        params["do_remote_prefill"] = False
        (ids,) = blocks.get_block_ids()
        first = (request.num_prompt_tokens - num_external_tokens) // self._block_size
        self._shared.copier.submit(
            Copy(
                request.request_id,
                params["transfer_id"],
                list(ids[first : self._prompt_blocks(request)]),
                params["slots"][first - self._skipped(params) :],
                params["base"],
                ArenaRef(*params["arena"]),
                time.monotonic_ns(),
            )
        )

    def build_connector_meta(self, scheduler_output: Any) -> KVConnectorMetadata:
        """Nothing to pass on: the copier knows its copies already."""
        return KVConnectorMetadata()

    def request_finished(
        self, request: Request, block_ids: list[int]
    ) -> tuple[bool, dict[str, Any] | None]:
        """Begin to save the blocks of a prefill that is over; vLLM keeps them until that is done.

        Returns:
            whether vLLM must keep the blocks, and kv_transfer_params for the decode side.
        """
        params = request.kv_transfer_params or {}
        if params.get("do_remote_prefill"):  # it ended before anything was loaded
            self._give_up(params)
        if not params.get("do_remote_decode"):
            return False, None
        if request.status != RequestStatus.FINISHED_LENGTH_CAPPED:
            return False, {"failed": NOT_COMPUTED}
        blocks = block_ids[self._skipped(params) : self._prompt_blocks(request)]
        answer = self._shared.save(request.request_id, params, list(blocks))
        return "failed" not in answer, answer

    def _give_up(self, params: dict[str, Any]) -> None:
        params["do_remote_prefill"] = False
        self._shared.not_needed(params)

    def _skipped(self, params: dict[str, Any]) -> int:
        """Leading blocks that are not transferred."""
        return int(params["skip_tokens"]) // self._block_size

    def _prompt_blocks(self, request: Request) -> int:
        return -(-int(request.num_prompt_tokens) // self._block_size)

    # -- in the model runner -------------------------------------------------------------------

    def register_kv_caches(self, kv_caches: dict[str, torch.Tensor]) -> None:
        """Make an arena of the configured size for the allocated cache, and start the copier."""
        num_blocks = self._kv_cache_config.num_blocks
        planes = planes_of(kv_caches, num_blocks)
        num_slots = 0
        if self._kv_transfer_config.is_kv_producer:
            wanted = int(self._kv_transfer_config.get_from_extra_config("arena_bytes", 0))
            num_slots = min(wanted // planes.slot_bytes, num_blocks)
            if not num_slots:
                raise UsageError(
                    f"{wanted} bytes for KV transfer have no room for a block of "
                    f"{planes.slot_bytes} bytes."
                )
        self._shared.open(planes, num_slots)

    def start_load_kv(self, forward_context: Any, **_: Any) -> None:
        """Do nothing: loads have begun when their blocks were allocated."""

    def wait_for_layer_load(self, layer_name: str) -> None:
        """Do nothing: loads are complete before their request is scheduled."""

    def save_kv_layer(
        self, layer_name: str, kv_layer: torch.Tensor, attn_metadata: Any, **_: Any
    ) -> None:
        """Do nothing: blocks are copied when the prompt is complete."""

    def wait_for_save(self) -> None:
        """Do nothing: vLLM keeps the blocks until they are copied."""

    def get_transfer_results(self, finished_req_ids: set[str]) -> KVConnectorTransferResults:
        """The copies that have ended since the last step."""
        return self._shared.results()

    def shutdown(self) -> None:
        """End the copies. vLLM calls this on both connectors of an engine."""
        self._shared.close()
