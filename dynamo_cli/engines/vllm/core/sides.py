"""Disaggregation with vLLM: the engine that decodes, and the engine that has prefilled."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from vllm.v1.engine.core import EngineCore

from dynamo_cli.engines.prepared import Prepared
from dynamo_cli.engines.vllm.core.intake import Intake
from dynamo_cli.engines.vllm.transfer.transfers import Transfers
from dynamo_cli.messages.prefill import PushJob, TransferStats
from dynamo_cli.messages.request import AddRequest

LOST = "lost"
"""Reason of a failed prefill that ended without any transfer parameters."""


class DecodeSide:
    """An `engines.seam.DecodeSide`.

    Args:
        worker: index of the worker that runs the engine.
        core: the engine.
        intake: takes its requests.
        transfers: its transfers of KV blocks.
    """

    def __init__(self, worker: int, core: EngineCore, intake: Intake, transfers: Transfers) -> None:
        self._worker = worker
        self._core = core
        self._intake = intake
        self._transfers = transfers
        self._started: list[str] = []

    def prepare(self, client: int, message: AddRequest) -> Prepared:
        """Read and check a request without starting it. Raises as `Engine.add`."""
        return self._intake.prepare(client, message)

    def start(self, prepared: Prepared, kv_transfer_params: dict[str, Any] | None = None) -> None:
        """Queue a prepared request, with the location of its KV blocks. Raises as `Engine.add`."""
        self._intake.start(prepared, kv_transfer_params)

    def cached_tokens(self, prepared: Prepared) -> int:
        """How many leading tokens of the prompt are in the prefix cache now."""
        request, _ = prepared.begin
        coordinator = self._core.scheduler.kv_cache_manager.coordinator
        _, tokens, *_ = coordinator.find_longest_cache_hit(
            request.block_hashes, request.num_prompt_tokens - 1
        )
        return int(tokens)

    def note_started(self, request_id: str) -> None:
        """For the engine: a request has given its first token in this engine."""
        self._started.append(request_id)

    def take_started(self) -> list[str]:
        """Requests that have given their first token in this engine since the last call."""
        started, self._started = self._started, []
        return started

    def take_unneeded(self) -> list[str]:
        """Transfers whose blocks were taken, or will not be, since the last call."""
        return self._transfers.take_unneeded()

    def stats(
        self, *, placements: Mapping[str, int], fallbacks: Mapping[str, int], away: int, kept: int
    ) -> TransferStats:
        """Counters of transfers; the arguments are what the worker itself counts."""
        return self._transfers.stats(
            self._worker,
            prefill=False,
            placements=placements,
            fallbacks=fallbacks,
            away=away,
            kept=kept,
        )


class PrefillSide:
    """An `engines.seam.PrefillSide`. Arguments as of `DecodeSide`.

    A decode worker can be notified as soon as a prefill has ended, since its engine itself waits
    for blocks that are still being copied.
    """

    def __init__(self, worker: int, core: EngineCore, intake: Intake, transfers: Transfers) -> None:
        self._worker = worker
        self._core = core
        self._intake = intake
        self._transfers = transfers
        self._ended: list[tuple[str, bytes, str]] = []

    def add(self, job: PushJob, owner: int) -> None:
        """Queue the prefill of a prompt for decode worker `owner`. Raises as `Engine.add`."""
        self._intake.add_prefill(job, owner)

    def note_ended(self, job_id: str, params: dict[str, Any] | None) -> None:
        """For the engine: it is done with the prompt of a job."""
        failed = LOST if params is None else str(params.get("failed", ""))
        self._ended.append((job_id, b"" if failed else json.dumps(params).encode(), failed))

    def take_ended(self) -> list[tuple[str, bytes, str]]:
        """Prefills that ended since the last call: job, parameters as JSON, reason of failure."""
        ended, self._ended = self._ended, []
        return ended

    def release(self, transfer_ids: list[str]) -> None:
        """The decode worker has taken these blocks, or does not want them."""
        if self._transfers.slots is not None:
            for transfer_id in transfer_ids:
                self._transfers.slots.release(transfer_id)

    def owner_gone(self, worker: int) -> None:
        """Release all blocks for this decode worker, which is gone."""
        if self._transfers.slots is not None:
            self._transfers.slots.owner_gone(worker)

    def expire(self, before_ns: int) -> None:
        """Release blocks that were ready before this time and that nobody has taken."""
        if self._transfers.slots is not None:
            self._transfers.slots.expire(before_ns)

    def stats(self, *, prefill_s: Sequence[float], kept: int) -> TransferStats:
        """Counters of transfers; the arguments are what the worker itself counts."""
        return self._transfers.stats(self._worker, prefill=True, prefill_s=prefill_s, kept=kept)
