"""Disaggregation with vLLM: what a decode worker and a prefill worker need of their engines."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from vllm.v1.engine.core import EngineCore

from dynamo_cli.engines.cache_client import CacheClient
from dynamo_cli.engines.prepared import Prepared
from dynamo_cli.engines.vllm.core.intake import VllmIntake
from dynamo_cli.engines.vllm.host_cache.connector import HostCacheConnector
from dynamo_cli.engines.vllm.host_cache.leases import Leases
from dynamo_cli.errors import DynamoError
from dynamo_cli.messages.prefill import PushJob, TransferStats
from dynamo_cli.messages.request import AddRequest
from dynamo_cli.units import SECOND_NS

LOST = "lost"
"""Reason of a failed prefill that ended without any transfer parameters."""

TRANSFER = "transfer_id"
"""Name of the parameter with the id of a transfer whose blocks the host cache keeps."""


def _copies(client: CacheClient | None, direction: str) -> dict[str, Any]:
    """The copies of an engine that belong to transfers: its loads, or its stores."""
    if client is None:
        return {"copies": {}, "nbytes": {}, "copy_s": {}}
    copied = client.loaded if direction == "load" else client.stored
    return {
        "copies": {direction: copied.blocks},
        "nbytes": {direction: copied.nbytes},
        "copy_s": {direction: copied.nanoseconds / SECOND_NS},
    }


class VllmDecodeSide:
    """An `engines.seam.DecodeSide`.

    Args:
        worker: index of the worker that runs the engine.
        core: the engine.
        intake: takes its requests.
        client: the engine's client of the host cache; None without a host cache.
    """

    def __init__(
        self, worker: int, core: EngineCore, intake: VllmIntake, client: CacheClient | None
    ) -> None:
        self._worker = worker
        self._client = client
        self._core = core
        self._intake = intake
        self._started: list[str] = []
        # requests whose blocks come from a prefill worker
        self._handed_over: set[str] = set()
        self._unneeded: list[str] = []

    def prepare(self, client: int, message: AddRequest) -> Prepared:
        """Read and check a request without starting it. Raises as `Engine.add`."""
        return self._intake.prepare(client, message)

    def start(self, prepared: Prepared, kv_transfer_params: dict[str, Any] | None = None) -> None:
        """Queue a prepared request. Raises as `Engine.add`.

        If the host cache has the blocks of its prompt, the engine finds them there like any other
        blocks. Parameters without `TRANSFER` are for vLLM's own connectors.
        """
        if kv_transfer_params is None:
            self._intake.start(prepared)
            return
        self._handed_over.add(prepared.message.request_id)
        try:
            ours = TRANSFER in kv_transfer_params
            self._intake.start(prepared, None if ours else kv_transfer_params)
        except DynamoError:
            self.forget([prepared.message.request_id])
            raise

    @property
    def room_tokens(self) -> int | None:
        """Longest prompt whose blocks can be handed over; None if there is no limit."""
        return self._client.room_tokens if self._client is not None else None

    def cached_tokens(self, prepared: Prepared) -> int:
        """How many leading tokens of the prompt are in the prefix cache now."""
        request, _ = prepared.begin
        coordinator = self._core.scheduler.kv_cache_manager.coordinator
        _, tokens, *_ = coordinator.find_longest_cache_hit(
            request.block_hashes, request.num_prompt_tokens - 1
        )
        return int(tokens)

    def known_tokens(self, prepared: Prepared, cached_tokens: int) -> int | None:
        """How many leading tokens need not be computed: cached, or found in the host cache.

        None as long as the host cache has not answered. When the request is started, the engine
        finds the answer under the request's id, and does not ask again.
        """
        connector = self._core.scheduler.connector
        if not isinstance(connector, HostCacheConnector):
            return cached_tokens
        more = connector.loadable_tokens(prepared.begin[0], cached_tokens)
        return None if more is None else cached_tokens + more

    def forget_known(self, request_id: str) -> None:
        """Release what was found in the host cache for a request, which is not started here now."""
        connector = self._core.scheduler.connector
        if isinstance(connector, HostCacheConnector):
            connector.forget(request_id)

    def handed_over(self, request_id: str) -> bool:
        """For the engine: whether a prefill worker has computed the prompt of this request."""
        return request_id in self._handed_over

    def note_started(self, request_id: str) -> None:
        """For the engine: a request has given its first token in this engine."""
        self._started.append(request_id)
        self.forget([request_id])

    def forget(self, request_ids: Sequence[str]) -> None:
        """For the engine: note that these requests need no blocks of a prefill worker any more."""
        for request_id in request_ids:
            if request_id in self._handed_over:
                self._handed_over.remove(request_id)
                self._unneeded.append(request_id)

    def take_started(self) -> list[str]:
        """Requests that have given their first token in this engine since the last call."""
        started, self._started = self._started, []
        return started

    def take_unneeded(self) -> list[str]:
        """Requests that do not need the blocks of their transfers any more, since the last call."""
        unneeded, self._unneeded = self._unneeded, []
        return unneeded

    def stats(
        self, *, placements: Mapping[str, int], fallbacks: Mapping[str, int], away: int, kept: int
    ) -> TransferStats:
        """Counters of prefills; the arguments are what the worker itself counts."""
        return TransferStats(
            prefill=False,
            worker=self._worker,
            placements=dict(placements),
            fallbacks=dict(fallbacks),
            away=away,
            **_copies(self._client, "load"),
            failures={},
            prefill_s=[],
            kept=kept + len(self._handed_over),
        )


class VllmPrefillSide:
    """An `engines.seam.PrefillSide`.

    Args:
        worker: index of the worker that runs the engine.
        intake: takes its requests.
        leases: the blocks that the host cache keeps for decode workers; None if vLLM's own
            connector transfers blocks. Then a decode worker is notified as soon as a prefill has
            ended: its engine waits itself for blocks that are still being copied.
    """

    def __init__(self, worker: int, intake: VllmIntake, leases: Leases | None) -> None:
        self._worker = worker
        self._client = leases.client if leases is not None else None
        self._intake = intake
        self._leases = leases
        self._ended: list[tuple[str, bytes, str]] = []

    def add(self, job: PushJob, owner: int) -> None:
        """Queue the prefill of a prompt for decode worker `owner`. Raises as `Engine.add`."""
        if self._leases is not None:
            self._leases.begin(job.job_id, owner)
        try:
            self._intake.add_prefill(job, owner)
        except DynamoError:
            self.release([job.job_id])
            raise

    def note_ended(self, job_id: str, params: dict[str, Any] | None) -> None:
        """For the engine: note that the prompt of a job is computed."""
        if self._leases is not None:
            return  # the job ends once its blocks are in the host's memory
        failed = LOST if params is None else str(params.get("failed", ""))
        self._ended.append((job_id, b"" if failed else json.dumps(params).encode(), failed))

    def take_ended(self) -> list[tuple[str, bytes, str]]:
        """Prefills that ended since the last call: job, parameters as JSON, reason of failure."""
        ended, self._ended = self._ended, []
        for job_id in self._leases.take_kept() if self._leases is not None else ():
            ended.append((job_id, json.dumps({TRANSFER: job_id}).encode(), ""))
        return ended

    def release(self, transfer_ids: list[str]) -> None:
        """Free blocks that their decode worker does not need any more."""
        if self._leases is not None:
            for transfer_id in transfer_ids:
                self._leases.end(transfer_id)

    def owner_gone(self, worker: int) -> None:
        """Release all blocks for this decode worker, which is gone."""
        if self._leases is not None:
            self._leases.owner_gone(worker)

    def expire(self, before_ns: int) -> None:
        """Release blocks that were ready before this time and that nobody has taken."""
        if self._leases is not None:
            self._leases.expire(before_ns)

    @property
    def _kept(self) -> int:
        leases = len(self._leases) if self._leases is not None else 0
        return leases + (self._client.kept if self._client is not None else 0)

    def stats(self, *, prefill_s: Sequence[float], kept: int) -> TransferStats:
        """Counters of prefills; the arguments are what the worker itself counts."""
        return TransferStats(
            prefill=True,
            worker=self._worker,
            placements={},
            fallbacks={},
            away=0,
            **_copies(self._client, "save"),
            failures=dict(self._leases.failures) if self._leases is not None else {},
            prefill_s=list(prefill_s),
            kept=kept + self._kept,
        )
