"""What a worker needs of its engine, whether it computes or only simulates."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

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
    """A running engine in the caller's own loop."""

    @property
    def batch_limits(self) -> tuple[int, int]:
        """Requests and tokens of one step."""

    @property
    def holdings(self) -> Held | None:
        """What the prefix cache holds, as of the last step or call; None when nobody asked."""

    def ready(self) -> EngineReady:
        """What the engine settled on while it started."""

    def has_work(self) -> bool:
        """Whether `step` has anything to do."""

    def add(self, client: int, message: AddRequest) -> None:
        """Queue a request of processor `client`.

        Raises:
            InvalidRequest, InternalError: the engine cannot run it; nothing of it is held.
        """

    def prepare(self, client: int, message: AddRequest) -> Prepared:
        """Read and check a request. Raises as `add`."""

    def start(self, prepared: Prepared, kv_transfer_params: dict[str, Any] | None = None) -> None:
        """Queue a prepared request, with the way to its KV blocks when they are elsewhere.

        Raises as `add`.
        """

    def cached_tokens(self, prepared: Prepared) -> int:
        """Leading tokens of its prompt that are in the cache now."""

    def abort(self, request_ids: list[str]) -> None:
        """Forget these requests; their KV blocks are free at once. Unknown ids are ignored."""

    def abort_client(self, client: int) -> list[str]:
        """Forget every request of a processor; their ids."""

    def step(self) -> Iterator[tuple[int, StepOutputs]]:
        """Run one step of the whole batch; yields (processor, outputs of its requests)."""

    def take_failed(self) -> list[tuple[int, str, DynamoError]]:
        """Requests that alone failed since the last call: processor, id, and why.

        Nothing of them is held any more.
        """

    def rest(self) -> None:
        """Wait a moment if the last step had nothing to do and the next would have nothing either.

        Only once all that the step gave is sent: nobody shall wait for this.
        """

    def add_prefill(self, job: PushJob, owner: int) -> None:
        """Queue the prefill of a prompt for decode worker `owner`. Raises as `add`."""

    def take_prefills(self) -> list[tuple[str, bytes, str]]:
        """Prefills that ended: job, kv_transfer_params as JSON, and why it failed if it did."""

    def take_started(self) -> list[str]:
        """Requests that had their first token since the last call."""

    def take_unneeded(self) -> list[str]:
        """Transfers that were taken, or will not be, since the last call."""

    def release(self, transfer_ids: list[str]) -> None:
        """The other side has taken these blocks, or does not want them."""

    def owner_gone(self, worker: int) -> None:
        """A decode worker is gone, and with it whoever wanted its blocks."""

    def expire_transfers(self, before_ns: int) -> None:
        """Let go of blocks that nobody took since then."""

    def transfer_stats(self, **more: Any) -> TransferStats:
        """Counters of transfers; `more` is what the worker counts itself."""

    def call(self, message: CallUtility) -> UtilityAnswer:
        """Call a method of the engine by name and wait for its result."""

    @property
    def asleep(self) -> bool:
        """It runs nothing until it is woken up."""

    def operate(self, order: Operate) -> bool:
        """Do what an operator asks; it has no requests when it is sent to sleep.

        Returns:
            whether it sleeps now; of a reset, whether it was possible.

        Raises:
            Conflict: this engine cannot.
        """

    def stats(self, refused_sends: int) -> WorkerStats:
        """Load now, and totals since the start."""

    def close(self) -> None:
        """Free what it holds."""
