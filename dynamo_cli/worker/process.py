"""The worker's loop: take what came, run one engine step, send what it gave."""

from __future__ import annotations

import logging
import socket
import time

import msgspec

from dynamo_cli.config import WorkerConfig
from dynamo_cli.engines import start
from dynamo_cli.engines.vllm.options.environment import select_devices
from dynamo_cli.errors import InternalError, InvalidRequest, Unavailable
from dynamo_cli.host.proctitle import set_title
from dynamo_cli.ipc.codec import Decoder
from dynamo_cli.ipc.switchboard import Switchboard
from dynamo_cli.messages.admin import Operate, Operated
from dynamo_cli.messages.flows import ToChild, ToWorker
from dynamo_cli.messages.lifecycle import Phase, PhaseChange, SetPhase, Stop
from dynamo_cli.messages.prefill import JobFailed, PrefillDone, QueueState, SetPlacement
from dynamo_cli.messages.request import (
    AbortRequests,
    AddRequest,
    CallUtility,
    OutputsLost,
    RequestRefused,
)
from dynamo_cli.messages.routing import Resync
from dynamo_cli.topology import ProcessId, Role
from dynamo_cli.worker.decode import Disaggregation
from dynamo_cli.worker.operations import ASLEEP, Operations
from dynamo_cli.worker.publisher import ROUTER, Publisher

FRONTEND = ProcessId(Role.FRONTEND)
SERVED = (Role.PROCESSOR, Role.ROUTER, Role.FRONTEND)
"""Who waits for the engine to be up."""

AWAY_TICK_S = 0.5
STATS_INTERVAL_S = 0.25

logger = logging.getLogger(__name__)


def main(process: ProcessId, config: WorkerConfig, control: socket.socket) -> None:
    """Run worker `process` until it is told to stop."""
    select_devices(config.engine.devices)
    worker = Worker(process, config, control)
    worker.load()
    worker.run()


class Worker:
    """One engine and its links."""

    def __init__(self, process: ProcessId, config: WorkerConfig, control: socket.socket) -> None:
        self._process = process
        self._config = config
        self._switchboard = Switchboard(control, self)
        self._decoder = Decoder(ToWorker)
        self._stopping = False
        self._stats_due_s = 0.0
        self._stats_current = False
        self._disagg: Disaggregation | None = None

    def load(self) -> None:
        """Build the engine and tell everybody."""
        self._switchboard.report(PhaseChange(Phase.LOADING))
        index = self._process.index
        self._engine = start.build(index, self._config.engine, kv_events=self._config.kv_events)
        self._publisher = Publisher(index, self._engine.holdings, self._switchboard)
        if (rule := self._config.placement) is not None:
            self._disagg = Disaggregation(self._engine, self._switchboard, rule)
        self._operations = Operations(
            self._engine,
            abort_all=self._abort_all,
            idle=self._idle,
            answer=self._operated,
        )
        for peer in self._switchboard.links:
            self._introduce(peer)
        self._switchboard.report(PhaseChange(Phase.PROBING))

    def run(self) -> None:
        while not self._stopping:
            busy = self._engine.has_work()
            self._switchboard.poll(0 if busy else self._idle_timeout_s())
            if self._engine.has_work():
                self._step()
            if self._disagg is not None:
                self._disagg.tick(time.monotonic_ns())
            self._operations.tick()
            self._report_stats()
        self._engine.close()
        self._switchboard.close()

    def _idle(self) -> bool:
        away = self._disagg.away if self._disagg is not None else 0
        return not away and not self._engine.has_work()

    def _step(self) -> None:
        outputs = list(self._engine.step())
        if self._disagg is not None:
            self._disagg.stepped()
        # First what the cache holds now, then what lets a client send the next request.
        self._publisher.publish()
        for client, output in outputs:
            if not self._switchboard.send(ProcessId(Role.PROCESSOR, client), output):
                self._lose(ProcessId(Role.PROCESSOR, client))
        for client, request_id, error in self._engine.take_failed():
            failed = RequestRefused(request_id, error.message, error.http_status)
            self._switchboard.owe(ProcessId(Role.PROCESSOR, client), failed)
            if self._disagg is not None:
                self._disagg.abort([request_id])  # its siblings go on
        self._stats_current = False
        self._engine.rest()

    def _lose(self, processor: ProcessId) -> None:
        """Give up what a processor has here: it lacks tokens now, and must not wait for ever."""
        if not self._switchboard.owe(processor, OutputsLost(self._process.index)):
            return  # it is gone
        lost = len(self._abort_client(processor.index))
        logger.error(
            "%s does not read what it is sent: outputs are lost, %d more of its requests given up",
            processor.name,
            lost,
        )

    def _idle_timeout_s(self) -> float | None:
        if not self._stats_current:
            return 0.0
        return AWAY_TICK_S if self._disagg is not None and self._disagg.away else None

    def _report_stats(self) -> None:
        """At most every interval while busy, and once when the engine becomes idle."""
        now = time.monotonic()
        idle = not self._engine.has_work()
        if self._stats_current or (now < self._stats_due_s and not idle):
            return
        self._send_stats()
        if self._disagg is not None:
            self._switchboard.send(FRONTEND, self._disagg.stats())
        self._stats_due_s = now + STATS_INTERVAL_S
        self._stats_current = idle

    def _send_stats(self) -> None:
        stats = self._engine.stats(self._switchboard.refused_sends())
        away = self._disagg.away if self._disagg is not None else 0
        if away or self._operations.asleep:
            stats = msgspec.structs.replace(
                stats, asleep=self._operations.asleep, num_away_reqs=away
            )
        for peer in self._switchboard.links:
            if peer.role in (Role.FRONTEND, Role.ROUTER):
                self._switchboard.send(peer, stats)

    def _operated(self, answer: Operated) -> None:
        """Who is told that the engine sleeps must not find it healthy."""
        self._send_stats()
        self._switchboard.owe(FRONTEND, answer)

    # -- switchboard handler ---------------------------------------------------------------

    def on_message(self, peer: ProcessId, payload: bytes) -> None:
        match self._decoder(payload):
            case AddRequest() as message:
                self._add(peer, message)
            case AbortRequests(request_ids):
                if self._disagg is not None:
                    self._disagg.abort(request_ids)
                self._engine.abort(request_ids)
            case QueueState() | JobFailed() | PrefillDone() | SetPlacement() as message:
                if self._disagg is not None:
                    self._disagg.apply(message)
            case CallUtility() as message:
                self._switchboard.owe(peer, self._engine.call(message))
                self._publisher.publish()
            case Resync():
                self._publisher.resync()
            case Operate() as order:
                self._operations.apply(order)
                self._publisher.publish()
        self._stats_current = False

    def _add(self, peer: ProcessId, message: AddRequest) -> None:
        if self._operations.asleep:
            self._refuse(peer, message.request_id, ASLEEP)
            return
        try:
            if self._disagg is not None:
                self._disagg.add(peer.index, message)
            else:
                self._engine.add(peer.index, message)
        except (InvalidRequest, InternalError) as error:
            refusal = RequestRefused(message.request_id, error.message, error.http_status)
            self._switchboard.owe(peer, refusal)

    def _refuse(self, peer: ProcessId, request_id: str, why: str) -> None:
        """Nothing can be done now; that may change."""
        refusal = RequestRefused(request_id, why, Unavailable.http_status)
        self._switchboard.owe(peer, refusal)

    def _abort_all(self, why: str) -> None:
        for peer in list(self._switchboard.links):
            if peer.role is Role.PROCESSOR:
                for request_id in self._abort_client(peer.index):
                    self._refuse(peer, request_id, why)

    def _abort_client(self, client: int) -> list[str]:
        """Forget every request of a processor; their ids."""
        away = self._disagg.client_gone(client) if self._disagg is not None else []
        return away + self._engine.abort_client(client)

    def on_link(self, peer: ProcessId) -> None:
        if hasattr(self, "_engine"):
            self._introduce(peer)
            self._stats_current = False

    def _introduce(self, peer: ProcessId) -> None:
        """The engine is up; the router learns what it holds."""
        if peer.role in SERVED:
            self._switchboard.owe(peer, self._engine.ready())
        if peer == ROUTER:
            self._publisher.resync()

    def on_unlink(self, peer: ProcessId, reason: str) -> None:
        if peer.role is Role.PREFILL_QUEUE and self._disagg is not None:
            self._disagg.queue_gone()
        if peer.role is not Role.PROCESSOR:
            return
        if lost := len(self._abort_client(peer.index)):
            logger.warning("%s is gone (%s): %d of its requests aborted", peer.name, reason, lost)

    def on_control(self, message: ToChild) -> None:
        match message:
            case Stop():
                self._stopping = True
            case SetPhase(phase):
                set_title(self._process, phase)
