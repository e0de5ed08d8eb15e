"""The worker: it computes prompts, or has prefill workers do so, and generates the answers."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Generator, Sequence
from typing import Any

import msgspec

from dynamo_cli.config import WorkerConfig
from dynamo_cli.errors import Asleep, DynamoError, InternalError, InvalidRequest
from dynamo_cli.messages.admin import Operated
from dynamo_cli.messages.flows import ToWorker
from dynamo_cli.messages.lifecycle import Phase, PhaseChange
from dynamo_cli.messages.prefill import JobFailed, PrefillDone, QueueState, SetPlacement
from dynamo_cli.messages.request import (
    AbortRequests,
    AddRequest,
    CallUtility,
    OutputsLost,
    RequestRefused,
    StepOutputs,
)
from dynamo_cli.topology import FRONTEND, ProcessId, Role
from dynamo_cli.worker.admission import Admission
from dynamo_cli.worker.capacity import capacity
from dynamo_cli.worker.handover import Handover
from dynamo_cli.worker.operations import ASLEEP, Operations
from dynamo_cli.worker.process import REPORT_INTERVAL_S, Equipment, run

SERVED = (Role.PROCESSOR, Role.ROUTER, Role.FRONTEND)
"""Roles that are told when the engine is up (`EngineReady`)."""

AWAY_TICK_S = 0.5
"""Poll interval while all requests of this worker are being prefilled elsewhere."""

logger = logging.getLogger(__name__)


def main(process: ProcessId, config: WorkerConfig, control: socket.socket) -> None:
    """Run worker `process` until it is told to stop."""
    run(process, config, control, DecodeWorker, ToWorker)


class DecodeWorker:
    """A worker's side towards processors; see `Handover` for its side towards prefill workers."""

    def __init__(self, equipment: Equipment) -> None:
        self._process = equipment.process
        self._machine = equipment.config.machine
        self._engine = equipment.engine
        self._switchboard = equipment.switchboard
        self._publisher = equipment.publisher
        self._handover: Handover | None = None
        if (rule := equipment.config.placement) is not None:
            side = self._engine.decode_side
            self._handover = Handover(side, self._switchboard, rule, self._fail, self._machine)
        self._admission = Admission(self._begin, time.monotonic_ns, self._engine.batch_limits)
        self._stats_due_s = 0.0
        self._stats_current = False
        self.phase = PhaseChange(Phase.PROBING, capacity(self._engine.ready()))
        self.operations = Operations(
            self._engine,
            abort_all=self._abort_all,
            idle=self._idle,
            answer=self._operated,
        )

    @property
    def _away(self) -> int:
        """Number of requests that are being prefilled elsewhere, or soon may be."""
        return self._handover.away if self._handover is not None else 0

    def _idle(self) -> bool:
        return not self._away and not self._busy

    @property
    def _busy(self) -> bool:
        """Whether the engine has work, or gets some in the next round."""
        return self._engine.has_work() or bool(self._admission)

    # -- the loop --------------------------------------------------------------------------

    def admit(self) -> None:
        """Give waiting requests to the engine; `Admission` says how many."""
        self.heard()
        self._admission.admit(busy=self._engine.has_work())

    def heard(self) -> None:
        """See `Duty`."""
        if self._handover is not None and self._handover.settle():
            self._stats_current = False

    def stepped(self, outputs: Sequence[tuple[int, StepOutputs]]) -> None:
        """Send each processor its outputs, and end the requests that failed in this step."""
        if self._handover is not None:
            self._handover.stepped()
        self._send_outputs(outputs)
        for client, request_id, error in self._engine.take_failed():
            self._fail(ProcessId(Role.PROCESSOR, client), request_id, error)
            if self._handover is not None:
                self._handover.abort([request_id])  # starts its siblings
        self._stats_current = False

    def _send_outputs(self, outputs: Sequence[tuple[int, StepOutputs]]) -> None:
        """Send each processor its outputs; of several messages, all or none."""
        accepted: dict[int, bool] = {}
        for client, output in outputs:
            processor = ProcessId(Role.PROCESSOR, client)
            if client not in accepted:
                accepted[client] = self._switchboard.send(processor, output)
                if not accepted[client]:
                    self._lose(processor)
            elif accepted[client]:
                # The first was the largest, so the link takes no more such steps until it is read.
                self._switchboard.owe(processor, output)

    def _lose(self, processor: ProcessId) -> None:
        """Abort all requests of a processor that has missed outputs, and tell the processor."""
        if not self._switchboard.owe(processor, OutputsLost(self._process.index)):
            return  # the processor is gone
        lost = len(self._abort_client(processor.index))
        logger.error(
            "the link to %s is full: outputs were lost, and %d of its requests are aborted",
            processor.name,
            lost,
        )

    def tick(self) -> None:
        """Take back prompts whose prefill is late, and report the load when that is due."""
        if self._handover is not None:
            self._handover.tick(time.monotonic_ns())
        self._report_stats()

    def idle_timeout_s(self) -> float | None:
        """See `Duty`: the loop does not wait while requests or a load report are due."""
        if self._admission or not self._stats_current:
            return 0.0
        return AWAY_TICK_S if self._away else None

    def _report_stats(self) -> None:
        """Report once per interval at most while busy, and once when the engine becomes idle."""
        now = time.monotonic()
        idle = not self._busy
        if self._stats_current or (now < self._stats_due_s and not idle):
            return
        self._send_stats()
        if self._handover is not None:
            self._switchboard.send(FRONTEND, self._handover.stats())
        self._stats_due_s = now + REPORT_INTERVAL_S
        self._stats_current = idle

    def _send_stats(self) -> None:
        stats = self._engine.stats(self._switchboard.refused_sends())
        if self._away or self._admission or self.operations.asleep:
            stats = msgspec.structs.replace(
                stats,
                asleep=self.operations.asleep,
                num_away_reqs=self._away,
                num_waiting_reqs=stats.num_waiting_reqs + len(self._admission),
                kept_requests=stats.kept_requests + len(self._admission),
            )
        for peer in self._switchboard.links:
            if peer.role in (Role.FRONTEND, Role.ROUTER):
                self._switchboard.send(peer, stats)

    def _operated(self, answer: Operated) -> None:
        """Answer the frontend. The load goes first: it says whether the engine sleeps."""
        self._send_stats()
        self._switchboard.owe(FRONTEND, answer)

    # -- messages --------------------------------------------------------------------------

    def apply(self, peer: ProcessId, message: Any) -> None:
        """Act on a message of a processor, the prefill queue, a prefill worker or the frontend."""
        match message:
            case AddRequest():
                self._add(peer, message)
            case AbortRequests(request_ids):
                self._admission.abort(request_ids)
                if self._handover is not None:
                    self._handover.abort(request_ids)
                self._engine.abort(request_ids)
            case QueueState() | JobFailed() | PrefillDone() | SetPlacement():
                if self._handover is not None:
                    self._handover.apply(message)
            case CallUtility():
                self._switchboard.owe(peer, self._engine.call(message))
                self._publisher.publish()
        self._stats_current = False

    def _add(self, peer: ProcessId, message: AddRequest) -> None:
        if self.operations.asleep:
            self._fail(peer, message.request_id, Asleep(ASLEEP))
        else:
            self._admission.put(peer.index, message)

    def _begin(self, client: int, message: AddRequest) -> Generator[None]:
        """Give a request to the engine, or refuse it; stops after each part of the work."""
        try:
            prepared = self._engine.decode_side.prepare(client, message)
            yield from prepared.unfinished
            if self._handover is not None:
                self._handover.add(prepared)
            else:
                self._engine.decode_side.start(prepared)
        except (InvalidRequest, InternalError) as error:
            self._fail(ProcessId(Role.PROCESSOR, client), message.request_id, error)

    def _fail(self, processor: ProcessId, request_id: str, error: DynamoError) -> None:
        """Tell a processor that its request has ended here, and why; it may move the request."""
        refusal = RequestRefused(request_id, error.message, error.http_status)
        self._switchboard.owe(processor, refusal)

    def _abort_all(self, why: str) -> None:
        """Abort all requests; the processors move them to other workers if there are any."""
        for peer in list(self._switchboard.links):
            if peer.role is Role.PROCESSOR:
                for request_id in self._abort_client(peer.index):
                    self._fail(peer, request_id, Asleep(why))

    def _abort_client(self, client: int) -> list[str]:
        """Forget every request of a processor, and return their ids."""
        away = self._handover.client_gone(client) if self._handover is not None else []
        lost = self._engine.abort_client(client)
        if self._handover is not None:
            self._handover.abort(lost)
        return self._admission.abort_client(client) + away + lost

    # -- links -----------------------------------------------------------------------------

    def on_link(self, peer: ProcessId) -> None:
        """Tell a peer of a role in `SERVED` that the engine is up."""
        if peer.role in SERVED:
            ready = msgspec.structs.replace(self._engine.ready(), machine=self._machine)
            self._switchboard.owe(peer, ready)
        self._stats_current = False

    def on_unlink(self, peer: ProcessId, reason: str) -> None:
        """Prefill locally the jobs of a lost prefill queue; abort requests of a lost processor."""
        self._stats_current = False
        if peer.role is Role.PREFILL_QUEUE and self._handover is not None:
            self._handover.queue_gone()
        if peer.role is not Role.PROCESSOR:
            return
        if lost := len(self._abort_client(peer.index)):
            # The supervisor logs the death, and what became of the requests.
            logger.debug("%s is gone (%s): %d of its requests end here", peer.name, reason, lost)
