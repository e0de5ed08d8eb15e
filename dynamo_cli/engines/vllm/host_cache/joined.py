"""Loads blocks of the host cache at the beginning of the step that uses them.

By default vLLM's connector loads between steps: the copies begin after the step in which a request
was admitted, and the request goes on one or two steps after the copies have ended. That delays no
other answer, but it delays this one by three steps of 10 to 60 ms. The copies for 1,000 tokens of
an 8B model take only 4 ms. vLLM's scheduler also allows loads that belong to a step. Here short
loads belong to the step that computes the rest of the prompt, and only the device waits for them.
vLLM 0.33 can do the same (`sync_load_budget_bytes`, 0 by default), but then its loop waits too.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from vllm.distributed.kv_transfer.kv_connector.v1.offloading.common import (
    OffloadingConnectorMetadata,
)
from vllm.distributed.kv_transfer.kv_connector.v1.offloading.scheduler import (
    OffloadingConnectorScheduler,
)
from vllm.distributed.kv_transfer.kv_connector.v1.offloading.worker import (
    OffloadingConnectorWorker,
)
from vllm.v1.core.kv_cache_manager import KVCacheBlocks
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.request import Request

JOINED_BYTES = 512 << 20
"""Most bytes that one step waits for. Their copy takes about 15 ms on PCIe 5, which is less than
the computation of 2,048 prompt tokens."""


@dataclass
class Metadata(OffloadingConnectorMetadata):  # type: ignore[misc]
    """What vLLM's scheduler tells the ranks about a step.

    Attributes:
        joined: numbers of the loads that belong to the step itself.
    """

    joined: frozenset[int] = frozenset()


class JoiningScheduler(OffloadingConnectorScheduler):  # type: ignore[misc]
    """vLLM's scheduler side; short loads belong to the step that uses the blocks."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._joining: set[str] = set()  # requests whose next load belongs to its step
        self._joined: set[int] = set()  # loads of the step that is being made
        self._joined_bytes = 0
        self._under_way: dict[int, str] = {}  # load that belongs to a step -> its request

    def get_num_new_matched_tokens(
        self, request: Request, num_computed_tokens: int, max_num_new_tokens: int | None = None
    ) -> tuple[int | None, bool]:
        """As vLLM's; the second value is False if the load belongs to the step."""
        tokens, loads = super().get_num_new_matched_tokens(
            request, num_computed_tokens, max_num_new_tokens
        )
        # A step computes at least one token of each request, so the load of a whole prompt cannot
        # belong to a step.
        part = num_computed_tokens + (tokens or 0) < request.num_tokens
        joins = bool(loads and tokens and part and self._fits(tokens))
        self._joining.discard(request.request_id)
        if joins:
            self._joining.add(request.request_id)
        return tokens, loads and not joins

    def _fits(self, tokens: int) -> bool:
        # If there are several groups of layers, blocks before the loaded blocks may be empty.
        groups = self.config.kv_group_configs
        if len(groups) > 1 or self._loads_between():
            return False
        nbytes = tokens // groups[0].tokens_per_block * self.manager.block_bytes
        return bool(self._joined_bytes + nbytes <= JOINED_BYTES)

    def _loads_between(self) -> bool:
        """Whether a load between steps is under way: vLLM lets later loads wait for it."""
        others = self._jobs.keys() - self._under_way.keys()
        return any(not self._jobs[job].is_store for job in others)

    def request_finished(self, request: Request) -> tuple[bool, dict[str, Any] | None]:
        """As vLLM's; the request may have ended while it waited for room for its blocks."""
        self._joining.discard(request.request_id)
        ended: tuple[bool, dict[str, Any] | None] = super().request_finished(request)
        return ended

    def update_state_after_alloc(
        self, request: Request, blocks: KVCacheBlocks, num_external_tokens: int
    ) -> None:
        """As vLLM's. It takes the first block without a hash as the first one to load, but blocks
        of a load that belongs to a step have their hashes already."""
        joins = request.request_id in self._joining and num_external_tokens > 0
        self._joining.discard(request.request_id)
        super().update_state_after_alloc(
            request, _without_hashes(blocks) if joins else blocks, num_external_tokens
        )
        if joins:
            loads = self._req_status[request.request_id].transfer_jobs
            self._joined |= loads
            self._under_way.update(dict.fromkeys(loads, request.request_id))
            size = self.config.kv_group_configs[0].tokens_per_block
            self._joined_bytes += num_external_tokens // size * self.manager.block_bytes

    def build_connector_meta(self, scheduler_output: SchedulerOutput) -> Metadata:
        """As vLLM's, which expects that a request neither runs nor is preempted during its load.

        Here both may happen, because the device works in order: a block that is stored was computed
        after the load, and blocks that other requests get are written after it too.
        """
        self._forget_ended()
        loading = {job: self._req_status[name] for job, name in self._under_way.items()}
        for job, status in loading.items():
            status.transfer_jobs.remove(job)
        meta = super().build_connector_meta(scheduler_output)
        for job, status in loading.items():
            status.transfer_jobs.add(job)
            self._req_status.setdefault(self._under_way[job], status)  # it may have ended
        joined, self._joined, self._joined_bytes = frozenset(self._joined), set(), 0
        return Metadata(**vars(meta), joined=joined)

    def _forget_ended(self) -> None:
        ended = [job for job in self._under_way if job not in self._jobs]
        _popped(self._under_way, ended)


def _without_hashes(blocks: KVCacheBlocks) -> SimpleNamespace:
    """The same blocks without hashes, so that vLLM loads them: it skips blocks with hashes."""
    return SimpleNamespace(
        blocks=[
            [
                SimpleNamespace(block_id=one.block_id, is_null=one.is_null, block_hash=None)
                for one in group
            ]
            for group in blocks.blocks
        ]
    )


class JoiningWorker(OffloadingConnectorWorker):  # type: ignore[misc]
    """vLLM's worker side; it makes the device wait in a step for the loads that belong to it."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._joined: dict[int, str] = {}  # load -> its request

    def start_kv_transfers(self, metadata: Metadata) -> None:
        """As vLLM's; the device then waits for the loads that belong to the step."""
        super().start_kv_transfers(metadata)
        self._joined.update((job, self._load_jobs[job]) for job in metadata.joined)
        if metadata.joined:
            self.worker.join(metadata.joined)

    def get_finished(self, finished_req_ids: set[str]) -> tuple[set[str], set[str]]:
        """As vLLM's, without requests whose load belonged to a step: they do not wait for it."""
        sending, loaded = super().get_finished(finished_req_ids)
        ended = [job for job in self._joined if job not in self._load_jobs]
        return sending, loaded - _popped(self._joined, ended)


def _popped(jobs: dict[int, str], ended: Iterable[int]) -> set[str]:
    return {jobs.pop(job) for job in ended}
