"""The protocols that every engine implements, whether it computes or only simulates.

Every engine is an `Engine`. A worker gives requests to its engine through the `DecodeSide`, which
also has what disaggregation needs there. A prefill worker uses the `PrefillSide` of its engine.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from dynamo_cli.engines.cache_client import CacheClient
from dynamo_cli.engines.prepared import Prepared
from dynamo_cli.errors import DynamoError
from dynamo_cli.kv.holdings import Held
from dynamo_cli.messages.admin import Operate
from dynamo_cli.messages.prefill import PushJob, TransferStats
from dynamo_cli.messages.request import (
    AddRequest,
    CallUtility,
    EngineReady,
    StepOutputs,
    UtilityAnswer,
)
from dynamo_cli.messages.telemetry import WorkerStats


class Engine(Protocol):
    """A running engine, stepped by the loop of the process that owns it."""

    @property
    def decode_side(self) -> DecodeSide:
        """What a worker uses to give requests to the engine."""

    @property
    def prefill_side(self) -> PrefillSide:
        """What a prefill worker uses to give jobs to the engine."""

    @property
    def cache_client(self) -> CacheClient | None:
        """The engine's client of the host cache; None without a host cache."""

    @property
    def batch_limits(self) -> tuple[int, int]:
        """Most requests and most tokens of one step."""

    @property
    def holdings(self) -> Held | None:
        """What the prefix cache holds, as of the last step or call; None if the engine was built
        without KV events."""

    @property
    def asleep(self) -> bool:
        """Whether the engine sleeps: it runs nothing until it is woken up."""

    def ready(self) -> EngineReady:
        """The sizes and abilities of the engine, as determined while it started."""

    def has_work(self) -> bool:
        """Whether `step` has anything to do."""

    def add(self, client: int, message: AddRequest) -> None:
        """Queue a request of processor `client` at once: `prepare` and `start` of `decode_side`.

        Raises:
            InvalidRequest, InternalError: the engine cannot run it; nothing of it is held.
        """

    def abort(self, request_ids: list[str]) -> None:
        """Forget these requests; their KV blocks are free at once. Unknown ids are ignored."""

    def abort_client(self, client: int) -> list[str]:
        """Forget every request of a processor, and return their ids."""

    def step(self) -> Iterator[tuple[int, StepOutputs]]:
        """Run one step of the whole batch; yields (processor, outputs of its requests).

        There are several for a processor only if they do not fit into one message. Then the first
        is the largest, and only requests whose outputs do not fit into any message fail.
        """

    def take_failed(self) -> list[tuple[int, str, DynamoError]]:
        """Requests that have failed since the last call while the engine goes on.

        The engine holds nothing of them any more.

        Returns:
            for each the processor, the id, and why it failed.
        """

    def rest(self) -> None:
        """Wait a moment if the last step had nothing to do, since the next has nothing to do yet.

        Must be called after all outputs of the step are sent, so that the outputs do not wait.
        """

    def call(self, message: CallUtility) -> UtilityAnswer:
        """Call a method of the engine by name and wait for its result."""

    def operate(self, order: Operate) -> bool:
        """Do what an operator asks; the engine has no requests when it is sent to sleep.

        Returns:
            whether the engine sleeps now; for a reset, whether it was possible.

        Raises:
            Conflict: this engine cannot.
        """

    def stats(self, refused_sends: int) -> WorkerStats:
        """The load now, and totals since the start."""

    def close(self) -> None:
        """Free what the engine holds."""


class DecodeSide(Protocol):
    """Takes requests, whose prompts may be prefilled by another engine."""

    def prepare(self, client: int, message: AddRequest) -> Prepared:
        """Read and check a request without starting it. Raises as `Engine.add`.

        The engine holds nothing of it yet. Work that takes long is left to `Prepared.unfinished`.
        """

    def start(self, prepared: Prepared, kv_transfer_params: dict[str, Any] | None = None) -> None:
        """Queue a prepared request. Raises as `Engine.add`.

        Args:
            kv_transfer_params: where the KV blocks of its prompt are, if another engine has them.
        """

    @property
    def room_tokens(self) -> int | None:
        """Longest prompt whose blocks can be handed over; None if there is no limit."""

    def cached_tokens(self, prepared: Prepared) -> int:
        """How many leading tokens of the prompt are in the prefix cache now."""

    def known_tokens(self, prepared: Prepared, cached_tokens: int) -> int | None:
        """How many leading tokens of the prompt need not be computed.

        These are the `cached_tokens`, and the tokens after them that the host cache has. The host
        cache keeps their blocks until the request has loaded them, or until `forget_known`.

        Returns:
            None as long as the host cache has not answered; call it again then.
        """

    def forget_known(self, request_id: str) -> None:
        """Release what `known_tokens` has found for a request, which is not started here now."""

    def take_started(self) -> list[str]:
        """Requests that have given their first token in this engine since the last call."""

    def take_unneeded(self) -> list[str]:
        """Requests that do not need the blocks of their transfers any more, since the last call."""

    def stats(
        self, *, placements: Mapping[str, int], fallbacks: Mapping[str, int], away: int, kept: int
    ) -> TransferStats:
        """Counters of transfers; the arguments are what the worker itself counts."""


class PrefillSide(Protocol):
    """An engine that prefills prompts for others."""

    def add(self, job: PushJob, owner: int) -> None:
        """Queue the prefill of a prompt for decode worker `owner`. Raises as `Engine.add`."""

    def take_ended(self) -> list[tuple[str, bytes, str]]:
        """Prefills that ended since the last call.

        Returns:
            for each the job, kv_transfer_params as JSON, and why it failed; empty if it did not.
        """

    def release(self, transfer_ids: list[str]) -> None:
        """Free blocks that their decode worker does not need any more; unknown ids are ignored."""

    def owner_gone(self, worker: int) -> None:
        """Release all blocks for this decode worker, which is gone."""

    def expire(self, before_ns: int) -> None:
        """Release blocks that were ready before this time and that nobody has taken."""

    def stats(self, *, prefill_s: Sequence[float], kept: int) -> TransferStats:
        """Counters of transfers; the arguments are what the worker itself counts."""
