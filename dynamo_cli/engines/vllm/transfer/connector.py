"""The vLLM side of KV transfer: what the scheduler asks and what the model runner does.

vLLM makes two objects of the class, one in its scheduler and one in its worker. With our executor
both live in one process and share a `Transfers`, found by the engine's id.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch
from vllm.config import VllmConfig
from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorMetadata,
    KVConnectorRole,
    KVConnectorTransferResults,
)

from dynamo_cli.engines.vllm.transfer.arena import Arena, ArenaRef
from dynamo_cli.engines.vllm.transfer.copier import Copier, Copy, CopyStats, planes_of
from dynamo_cli.engines.vllm.transfer.slots import Slots
from dynamo_cli.messages import TransferStats

NO_ROOM, GAP, NOT_COMPUTED = "no_room", "gap", "not_computed"

_transfers: dict[str, Transfers] = {}


def transfers_of(vllm_config: VllmConfig) -> Transfers:
    """What both sides of an engine's connector share."""
    return _transfers.setdefault(vllm_config.kv_transfer_config.engine_id, Transfers())


@dataclass(slots=True)
class Transfers:
    """The transfers of one engine.

    Attributes:
        slots, arena: of an engine that prefills; None before its cache is there.
        copier: does the copies.
        failures: transfers that came to nothing, by reason.
    """

    slots: Slots | None = None
    arena: Arena | None = None
    copier: Copier | None = None
    failures: Counter[str] = field(default_factory=Counter)
    _saved: list[str] = field(default_factory=list)
    _unneeded: list[str] = field(default_factory=list)

    # -- for the process around ----------------------------------------------------------------

    def take_saved(self) -> list[str]:
        """Transfers whose blocks are all in the arena since the last call."""
        saved, self._saved = self._saved, []
        return saved

    def take_unneeded(self) -> list[str]:
        """Transfers whose slots the other side can have back, since the last call."""
        unneeded, self._unneeded = self._unneeded, []
        return unneeded

    def stats(self, worker: int, *, prefill: bool, **more: Any) -> TransferStats:
        """Counters since the start; `more` are fields that the worker counts itself."""
        copies = self.copier.stats if self.copier else CopyStats()
        slots, arena = self.slots, self.arena
        slot_bytes = arena.memory.shape[1] if arena else 0
        fields: dict[str, Any] = {
            "prefill": prefill,
            "worker": worker,
            "placements": {},
            "fallbacks": {},
            "away": 0,
            "copies": dict(copies.copies),
            "nbytes": dict(copies.nbytes),
            "copy_s": {kind: spent / 1e9 for kind, spent in copies.nanoseconds.items()},
            "failures": dict(self.failures + copies.failures),
            "arena_used_bytes": slots.used * slot_bytes if slots else 0,
            "arena_bytes": slots.capacity * slot_bytes if slots else 0,
            "prefill_s": [],
        }
        return TransferStats(**fields | more)

    # -- for the connector ---------------------------------------------------------------------

    def save(self, request_id: str, params: dict[str, Any], blocks: list[int]) -> dict[str, Any]:
        """Begin to copy the blocks of a prefilled prompt; what the decode side must know."""
        assert self.slots is not None
        assert self.arena is not None
        assert self.copier is not None
        transfer_id = params["transfer_id"]
        now = time.monotonic_ns()
        slots = self.slots.reserve(transfer_id, params["owner"], len(blocks), now)
        if slots is None:
            self.failures[NO_ROOM] += 1
            return {"failed": NO_ROOM}
        self.copier.submit(Copy(request_id, transfer_id, blocks, slots, None))
        return {
            "do_remote_prefill": True,
            "do_remote_decode": False,
            "transfer_id": transfer_id,
            "arena": list(self.arena.ref),
            "slots": slots,
        }

    def not_needed(self, params: dict[str, Any]) -> None:
        """This side will not take the blocks (any more)."""
        self._unneeded.append(params["transfer_id"])

    def results(self) -> KVConnectorTransferResults:
        """What the copier has done since the last call, as vLLM wants it."""
        results = KVConnectorTransferResults()
        for copy, well in self.copier.done() if self.copier else ():
            if copy.arena is None:
                results.finished_sending.add(copy.request_id)
                self._saved.append(copy.transfer_id)
            else:
                results.finished_recving.add(copy.request_id)
                self._unneeded.append(copy.transfer_id)
                if not well:
                    results.failed_recving.add(copy.request_id)
        return results


class _Loads(KVConnectorMetadata):  # type: ignore[misc]
    """What the model runner is to begin in this step."""

    def __init__(self, loads: list[Copy]) -> None:
        self.loads = loads


class ShmConnector(KVConnectorBase_V1):  # type: ignore[misc]
    """KV blocks through an `Arena`; full attention, one rank.

    Raises:
        ValueError: the engine has more ranks, or several kinds of cache.
    """

    def __init__(
        self, vllm_config: VllmConfig, role: KVConnectorRole, kv_cache_config: Any = None
    ) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        if vllm_config.parallel_config.world_size > 1:
            raise ValueError("--kv-transfer shm is for engines of one GPU; use --kv-transfer nixl.")
        if kv_cache_config is not None and len(kv_cache_config.kv_cache_groups) > 1:
            raise ValueError("--kv-transfer shm cannot handle models with several kinds of cache.")
        self._block_size = vllm_config.cache_config.block_size
        self._shared = transfers_of(vllm_config)
        self._loads: list[Copy] = []

    # -- in the scheduler ----------------------------------------------------------------------

    def get_num_new_matched_tokens(
        self, request: Any, num_computed_tokens: int
    ) -> tuple[int | None, bool]:
        """Tokens that can be loaded beyond those in the local cache, and that it takes a while."""
        params = request.kv_transfer_params or {}
        if not params.get("do_remote_prefill"):
            return 0, False
        missing = request.num_prompt_tokens - num_computed_tokens
        if num_computed_tokens < params["skip_tokens"]:
            # The prefix that needed no transfer was evicted meanwhile.
            self._shared.failures[GAP] += 1
            self._give_up(params)
            return 0, False
        return (missing, True) if missing > 0 else (0, False)

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        """The blocks to load into are there."""
        params = request.kv_transfer_params or {}
        if not params.get("do_remote_prefill"):
            return
        if not num_external_tokens:
            self._give_up(params)
            return
        params["do_remote_prefill"] = False
        (ids,) = blocks.get_block_ids()
        first = (request.num_prompt_tokens - num_external_tokens) // self._block_size
        count = math.ceil(request.num_prompt_tokens / self._block_size)
        skipped = params["skip_tokens"] // self._block_size
        self._loads.append(
            Copy(
                request.request_id,
                params["transfer_id"],
                list(ids[first:count]),
                params["slots"][first - skipped :],
                ArenaRef(*params["arena"]),
            )
        )

    def _give_up(self, params: dict[str, Any]) -> None:
        params["do_remote_prefill"] = False
        self._shared.not_needed(params)

    def build_connector_meta(self, scheduler_output: Any) -> KVConnectorMetadata:
        """What this step is to begin."""
        loads, self._loads = self._loads, []
        return _Loads(loads)

    def request_finished(
        self, request: Any, block_ids: list[int]
    ) -> tuple[bool, dict[str, Any] | None]:
        """A prefill is over: keep its blocks until they are copied."""
        params = request.kv_transfer_params or {}
        if params.get("do_remote_prefill"):  # it left before anything was loaded
            self._give_up(params)
        if not params.get("do_remote_decode"):
            return False, None
        if request.num_computed_tokens < request.num_prompt_tokens:
            return False, {"failed": NOT_COMPUTED}
        skipped = params["skip_tokens"] // self._block_size
        count = math.ceil(request.num_prompt_tokens / self._block_size)
        answer = self._shared.save(request.request_id, params, list(block_ids[skipped:count]))
        return "failed" not in answer, answer | {"skip_tokens": params["skip_tokens"]}

    # -- in the model runner -------------------------------------------------------------------

    def register_kv_caches(self, kv_caches: dict[str, torch.Tensor]) -> None:
        """The cache is there: make the arena and start the copier."""
        num_blocks = self._kv_cache_config.num_blocks
        planes = planes_of([kv_caches[layer] for layer in sorted(kv_caches)], num_blocks)
        memory = None
        if self._kv_transfer_config.is_kv_producer:
            slot_bytes = sum(plane.shape[1] for plane in planes)
            wanted = int(self._kv_transfer_config.get_from_extra_config("arena_bytes", 0))
            count = max(1, min(wanted // slot_bytes, num_blocks))
            self._shared.slots = Slots(count)
            self._shared.arena = Arena(slot_bytes, count)
            memory = self._shared.arena.memory
        self._shared.copier = Copier(planes, memory)

    def start_load_kv(self, forward_context: Any, **_: Any) -> None:
        """Begin the loads of this step; nothing waits for them."""
        assert self._shared.copier is not None
        for load in self._get_connector_metadata().loads:
            self._shared.copier.submit(load)

    def wait_for_layer_load(self, layer_name: str) -> None:
        """Loads are complete before their request is scheduled."""

    def save_kv_layer(
        self, layer_name: str, kv_layer: torch.Tensor, attn_metadata: Any, **_: Any
    ) -> None:
        """Blocks are copied when the prompt is complete."""

    def wait_for_save(self) -> None:
        """Blocks are kept until they are copied; the step need not wait."""

    def get_transfer_results(self, finished_req_ids: set[str]) -> KVConnectorTransferResults:
        """What was copied since the last step."""
        return self._shared.results()

    def shutdown(self) -> None:
        """End the copier."""
        if self._shared.copier is not None:
            self._shared.copier.close()
