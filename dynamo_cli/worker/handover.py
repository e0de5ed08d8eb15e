"""A decode worker's side of disaggregation: sends prompts to prefill workers, takes KV blocks."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from dynamo_cli.config import PlacementRule
from dynamo_cli.engines.prepared import Prepared
from dynamo_cli.engines.seam import DecodeSide
from dynamo_cli.errors import DynamoError, InternalError, InvalidRequest
from dynamo_cli.ipc.switchboard import Switchboard
from dynamo_cli.messages.base import Message
from dynamo_cli.messages.prefill import (
    CancelJob,
    JobFailed,
    PrefillDone,
    PrefilledElsewhere,
    PushJob,
    QueueState,
    ReleaseTransfers,
    SetPlacement,
    TransferStats,
)
from dynamo_cli.topology import QUEUE, ProcessId, Role
from dynamo_cli.worker.away import DEADLINE_NS, RemotePrefills
from dynamo_cli.worker.where_to_prefill import PlacementReason, Where, decide

Refuse = Callable[[ProcessId, str, DynamoError], None]
"""Takes the processor, the id of its request, and the reason."""

QUEUE_GONE = "queue_gone"
"""Why a prefill is done locally: the link to the prefill queue is gone."""


class Handover:
    """Decides where each prompt is prefilled, and starts here what no prefill worker computes.

    A request whose prompt was sent to the prefill queue is "away"; see `RemotePrefills`.

    Args:
        engine: the decode side of this worker's engine.
        switchboard: links of this worker.
        rule: when a prompt is worth sending away.
        refuse: tells a processor that one of its requests ends, and why.
        machine: number of the machine that this worker runs on.
    """

    def __init__(
        self,
        engine: DecodeSide,
        switchboard: Switchboard,
        rule: PlacementRule,
        refuse: Refuse,
        machine: int = 0,
    ) -> None:
        self._engine = engine
        self._machine = machine
        self._switchboard = switchboard
        self._rule = rule
        self._refuse = refuse
        self._queue = QueueState(0, 0)
        self._pushed = 0  # jobs since the last `QueueState`, which does not count them yet
        self._remote: RemotePrefills[Prepared] = RemotePrefills()
        self._asking: dict[str, Prepared] = {}  # requests that wait for the host cache's answer
        # request that has blocks of a prefill worker -> this prefill worker, and the transfer
        self._sources: dict[str, tuple[int, str]] = {}
        self._placements: Counter[str] = Counter()

    @property
    def away(self) -> int:
        """Number of requests that are being prefilled elsewhere, or soon may be."""
        return len(self._remote) + len(self._asking)

    # -- requests --------------------------------------------------------------------------

    def add(self, prepared: Prepared) -> None:
        """Take a request: start it, send its prompt away, or let it wait.

        It waits if a sibling's prompt is away, until that one has its first token.

        Raises:
            InvalidRequest, InternalError: the engine cannot run it.
        """
        message = prepared.message
        if message.probe:
            # A probe tests this engine alone; prefill workers may not be up yet.
            self._engine.start(prepared)
            return
        try:
            self._place(prepared)
        except (InvalidRequest, InternalError):
            self._engine.forget_known(message.request_id)
            raise

    def _place(self, prepared: Prepared) -> None:
        """Like `add`. If the host cache must be asked first, `settle` calls this again."""
        request_id = prepared.message.request_id
        if self._remote.join(request_id, prepared.family, prepared):
            self._engine.forget_known(request_id)
            self._count(Where(False, PlacementReason.SIBLING))
            return
        placed = self._where(prepared)
        if placed is None:
            self._asking[request_id] = prepared
            return
        where, skip_tokens = placed
        if where.remote and not self._push(prepared, skip_tokens):
            where = Where(False, PlacementReason.PUSH_REFUSED)
        self._count(where)
        if where.remote:
            self._engine.forget_known(request_id)
        else:
            self._engine.start(prepared)

    def _where(self, prepared: Prepared) -> tuple[Where, int] | None:
        """Where a prompt is prefilled, and how many of its tokens need not be computed.

        The host cache is asked only about prompts that would be sent away for their length.

        Returns:
            None as long as the host cache has not answered.
        """
        if not prepared.suitable:
            return Where(False, PlacementReason.UNSUITABLE), 0
        cached = self._engine.cached_tokens(prepared)
        where = self._decide(prepared, cached, cached)
        if where.reason is not PlacementReason.LONG:
            return where, cached
        known = self._engine.known_tokens(prepared, cached)
        return None if known is None else (self._decide(prepared, cached, known), known)

    def _decide(self, prepared: Prepared, cached_tokens: int, known_tokens: int) -> Where:
        depth, prefill_workers = self._queue.on(self._machine)
        return decide(
            self._rule,
            prepared.prompt_tokens,
            cached_tokens,
            depth + self._pushed,
            prefill_workers,
            self._engine.room_tokens,
            known_tokens,
        )

    def settle(self) -> bool:
        """Place the requests about which the host cache has answered.

        They are placed in the order in which they came, so that the first of a family leads it.

        Returns:
            whether any request was placed.
        """
        asking, self._asking = self._asking, {}
        for prepared in asking.values():
            try:
                self._place(prepared)
            except (InvalidRequest, InternalError) as error:
                self._refused(prepared, error)
        return len(self._asking) < len(asking)

    def _push(self, prepared: Prepared, skip_tokens: int) -> bool:
        message = prepared.message
        prepared.pushed_ns = time.monotonic_ns()
        deadline_ns = prepared.pushed_ns + DEADLINE_NS
        job = PushJob(
            job_id=message.request_id,
            prompt_tokens=prepared.prompt_tokens,
            skip_tokens=skip_tokens,
            holder=message.prefill_worker,
            priority=prepared.priority,
            deadline_ns=deadline_ns,
            token_ids=message.token_ids,
            frames=message.frames,
            machine=self._machine,
        )
        if not self._switchboard.send(QUEUE, job):
            return False
        self._remote.send(message.request_id, prepared.family, prepared, deadline_ns)
        self._pushed += 1
        return True

    def _count(self, where: Where) -> None:
        self._placements[f"{'remote' if where.remote else 'local'}:{where.reason}"] += 1

    def abort(self, request_ids: list[str]) -> None:
        """Forget requests that are away or wait for a sibling, and cancel their jobs.

        Siblings that waited for these requests are started. The caller aborts the requests that the
        engine has already.
        """
        for request_id in request_ids:
            if self._asking.pop(request_id, None) is not None:
                self._engine.forget_known(request_id)
            if self._remote.abort(request_id):
                self._switchboard.owe(QUEUE, CancelJob(request_id))
        for request_id in request_ids:  # by now none of these requests waits as a sibling
            self._go_on(request_id)

    def _go_on(self, request_id: str) -> None:
        """Start the siblings that waited for the prompt of this request."""
        for sibling in self._remote.started(request_id):
            self._start(sibling)

    def _start(self, prepared: Prepared, params: dict[str, Any] | None = None) -> None:
        """Start a request that was prepared earlier; if the engine does not take it, refuse it."""
        try:
            self._engine.start(prepared, params)
        except (InvalidRequest, InternalError) as error:
            self._refused(prepared, error)

    def _refused(self, prepared: Prepared, error: DynamoError) -> None:
        """Tell the processor that the engine does not take a request that was prepared earlier."""
        self._engine.forget_known(prepared.message.request_id)
        processor = ProcessId(Role.PROCESSOR, prepared.client)
        self._refuse(processor, prepared.message.request_id, error)
        self._go_on(prepared.message.request_id)

    def stepped(self) -> None:
        """After an engine step: start waiting siblings."""
        for request_id in self._engine.take_started():
            self._go_on(request_id)

    def tick(self, now_ns: int) -> None:
        """Prefill locally what is late; release blocks that this engine does not need any more."""
        for prepared in self._remote.late(now_ns):
            self._start(prepared)
        unneeded = self._engine.take_unneeded()
        self._release([self._sources.pop(one) for one in unneeded if one in self._sources])

    # -- messages ---------------------------------------------------------------------------

    def apply(self, message: Message) -> None:
        """Act on a message of the prefill queue, a prefill worker or the frontend."""
        match message:
            case QueueState():
                self._queue, self._pushed = message, 0
            case JobFailed(job_id, reason):
                if (prepared := self._remote.failed(job_id, reason)) is not None:
                    self._start(prepared)
            case PrefillDone():
                self._prefilled(message)
            case SetPlacement(conditional, length, size):
                self._rule = PlacementRule(conditional, length, size)

    def _prefilled(self, done: PrefillDone) -> None:
        """Start a request with the blocks of a prefill worker; release them if it is not away.

        If the lease of a job expires, two prefill workers may compute its prompt. The request has
        the blocks of the first one then.
        """
        params = json.loads(done.params)
        transfer = params.get("transfer_id")  # other connectors than ours release by themselves
        prepared = self._remote.done(done.job_id)
        if prepared is None:
            if transfer is not None:
                self._release([(done.prefill_worker, transfer)])
            return
        if transfer is not None:
            self._sources[done.job_id] = done.prefill_worker, transfer
        told = PrefilledElsewhere(
            done.job_id, done.prefill_worker, prepared.pushed_ns, done.leased_ns, done.prefilled_ns
        )
        self._switchboard.send(ProcessId(Role.PROCESSOR, prepared.client), told)
        self._start(prepared, params)

    def queue_gone(self) -> None:
        """Prefill locally all that is away; blocks for it that still arrive are released."""
        self._queue = QueueState(0, 0)
        for prepared in self._remote.all_failed(QUEUE_GONE):
            self._start(prepared)

    def client_gone(self, client: int) -> list[str]:
        """Forget the requests of a processor that has ended, and return their ids.

        Only requests that are away, wait for a sibling or wait for the host cache are known here.
        """
        lost = self._remote.of(lambda prepared: prepared.client == client)
        lost += [name for name, one in self._asking.items() if one.client == client]
        self.abort(lost)
        return lost

    def _release(self, transfers: list[tuple[int, str]]) -> None:
        """Tell prefill workers, each given with a transfer, that its blocks are not needed."""
        by_source: dict[int, list[str]] = {}
        for source, transfer in transfers:
            by_source.setdefault(source, []).append(transfer)
        for source, ids in by_source.items():
            peer = ProcessId(Role.PREFILL_WORKER, source)
            self._switchboard.owe(peer, ReleaseTransfers(ids))

    def stats(self) -> TransferStats:
        """Counters since this process started."""
        return self._engine.stats(
            placements=dict(self._placements),
            fallbacks=dict(self._remote.fallbacks),
            away=len(self._remote),
            kept=self._remote.kept + len(self._sources) + len(self._asking),
        )
