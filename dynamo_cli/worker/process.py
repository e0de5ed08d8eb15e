"""The loop of every process with an engine: receive messages, run one step, send its outputs."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from dynamo_cli.config import WorkerConfig
from dynamo_cli.engines import start
from dynamo_cli.engines.cache_client import CacheClient
from dynamo_cli.engines.seam import Engine
from dynamo_cli.engines.vllm.options.environment import select_devices
from dynamo_cli.host import imports
from dynamo_cli.host.proctitle import set_title
from dynamo_cli.ipc.codec import Decoder
from dynamo_cli.ipc.publisher import Publisher
from dynamo_cli.ipc.switchboard import Switchboard
from dynamo_cli.messages.admin import Operate
from dynamo_cli.messages.base import Message
from dynamo_cli.messages.flows import ToChild
from dynamo_cli.messages.host_cache import BlocksFound, CacheRefused, SlotsLent
from dynamo_cli.messages.lifecycle import Phase, PhaseChange, SetPhase, Stop
from dynamo_cli.messages.request import StepOutputs
from dynamo_cli.messages.routing import Resync
from dynamo_cli.topology import ROUTER, ProcessId, Role
from dynamo_cli.worker.copies import CopyReports
from dynamo_cli.worker.operations import Operations

ANSWER_WAIT_S = 0.001
"""Longest wait for messages while the engine can do nothing before the host cache answers,
seconds."""

HEAR_S = 0.001
"""Longest wait before a step for the host cache's answers about new requests, seconds. Most answers
come within 0.2 ms. A step takes 5 ms or more, and a GPU has the next one queued already."""

REPORT_INTERVAL_S = 0.25
"""Shortest time between two reports of load or counters to the frontend, seconds."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Equipment:
    """What a duty works with.

    Attributes:
        process: the process that it runs in.
        config: the configuration that this process was started with.
        engine: its engine, loaded.
        switchboard: its links.
        publisher: tells the router what the prefix cache holds.
    """

    process: ProcessId
    config: WorkerConfig
    engine: Engine
    switchboard: Switchboard
    publisher: Publisher


class Duty(Protocol):
    """What a process does with its engine: answer requests of processors, or run prefill jobs.

    Attributes:
        operations: carries out what the frontend asks of the engine.
        phase: the phase of the process once the engine is loaded.
    """

    operations: Operations
    phase: PhaseChange

    def apply(self, peer: ProcessId, message: Any) -> None:
        """Act on a message; the loop itself handles `Resync` and `Operate` before this."""

    def admit(self) -> None:
        """Give waiting requests to the engine, before its next step."""

    def heard(self) -> None:
        """Act on answers of the host cache about new requests, before the engine's next step."""

    def stepped(self, outputs: Sequence[tuple[int, StepOutputs]]) -> None:
        """Send the outputs of an engine step; its KV events were sent to the router before."""

    def tick(self) -> None:
        """Do what is due by now; called once in each round of the loop."""

    def idle_timeout_s(self) -> float | None:
        """How long the loop may wait for a message while the engine is idle, seconds; None means
        without limit."""

    def on_link(self, peer: ProcessId) -> None:
        """Act on a new link to this peer."""

    def on_unlink(self, peer: ProcessId, reason: str) -> None:
        """Act on the loss of the link to this peer."""


def run(
    process: ProcessId,
    config: WorkerConfig,
    control: socket.socket,
    duty: Callable[[Equipment], Duty],
    messages: Any,
) -> None:
    """Load the engine of `process`, and run it until the supervisor says stop.

    Args:
        duty: makes the duty of this process.
        messages: the union of all messages that may come.
    """
    select_devices(config.engine.devices)
    EngineProcess(process, config, control, duty, messages).run()


class EngineProcess:
    """One engine, its links and its loop. The constructor loads the engine.

    Raises:
        ModelError, ResourceError, StartError, UsageError: the engine cannot be built.
    """

    def __init__(
        self,
        process: ProcessId,
        config: WorkerConfig,
        control: socket.socket,
        duty: Callable[[Equipment], Duty],
        messages: Any,
    ) -> None:
        self._process = process
        self._stopping = False
        self._decoder: Callable[[bytes], Message] = Decoder(messages)
        self._switchboard = Switchboard(control, self)
        self._switchboard.report(PhaseChange(Phase.LOADING))
        self._engine = start.build(process.index, config.engine, kv_events=config.kv_events)
        self._publisher = Publisher(process.index, self._engine.holdings, self._switchboard)
        self._stood_still = False
        self._cache = self._engine.cache_client
        self._copies: CopyReports | None = None
        if self._cache is not None:
            host_cache = ProcessId(Role.HOST_CACHE, config.machine)
            self._cache.connect(
                lambda message: self._switchboard.send(host_cache, message),
                lambda message: self._switchboard.owe(host_cache, message),
            )
            self._copies = CopyReports(process, self._cache, self._switchboard)
        self._duty = duty(
            Equipment(process, config, self._engine, self._switchboard, self._publisher)
        )
        self._switchboard.report(self._duty.phase)
        if config.engine.devices:  # on a CPU there is little to save
            imports.tell()

    def run(self) -> None:
        """Serve until the supervisor says stop."""
        while not self._stopping:
            self.advance(self._timeout_s())
        self._engine.close()
        self._switchboard.close()

    def _timeout_s(self) -> float | None:
        """How long the next round may wait for a message, seconds; None means without limit."""
        if not self._engine.has_work():
            return self._idle_timeout_s()
        if self._stood_still and self._cache is not None and self._cache.waits():
            return ANSWER_WAIT_S
        return 0

    def _idle_timeout_s(self) -> float | None:
        waits = [self._duty.idle_timeout_s()]
        if self._copies is not None:
            waits.append(self._copies.timeout_s())
        return min((one for one in waits if one is not None), default=None)

    def advance(self, timeout_s: float | None) -> None:
        """Do one round of the loop.

        Args:
            timeout_s: longest wait for a message, seconds; None means without limit.
        """
        self._switchboard.poll(timeout_s)
        asked = self._cache.asked if self._cache is not None else 0
        self._duty.admit()
        if self._cache is not None and self._cache.asked > asked:
            self._hear_answers(self._cache, asked)
            self._duty.heard()
        if self._engine.has_work():
            self._step()
        self._duty.operations.tick()
        self._duty.tick()
        if self._copies is not None:
            self._copies.tick()

    def _hear_answers(self, cache: CacheClient, asked: int) -> None:
        """Wait up to `HEAR_S` for the host cache's answers, so that new requests are in this step.

        Args:
            asked: number of questions that were asked before those about the new requests.
        """
        end_s = time.monotonic() + HEAR_S
        while cache.waits(asked) and (left_s := end_s - time.monotonic()) > 0:
            self._switchboard.poll(left_s)

    def _step(self) -> None:
        began_ns = time.monotonic_ns()
        outputs = list(self._engine.step())
        if self._cache is not None:
            self._cache.pace.stepped(time.monotonic_ns() - began_ns, ended=bool(outputs))
        # KV events go first: a client that has its answer may send its next request at once, and
        # the router must know by then what is cached.
        self._publisher.publish()
        self._duty.stepped(outputs)
        self._stood_still = not outputs
        self._engine.rest()

    # -- switchboard handler ---------------------------------------------------------------

    def on_message(self, peer: ProcessId, payload: bytes) -> None:
        """Handle a message of a peer."""
        message = self._decoder(payload)
        match message:
            case Resync():
                self._publisher.resync()
            case Operate():
                self._duty.operations.apply(message)
                self._publisher.publish()
            case SlotsLent() | BlocksFound() | CacheRefused():
                self._apply_cache(message)
                return
        self._duty.apply(peer, message)

    def _apply_cache(self, message: SlotsLent | BlocksFound | CacheRefused) -> None:
        assert self._cache is not None
        self._cache.apply(message)
        if isinstance(message, CacheRefused):
            logger.error(
                "%s goes on without the host cache: %s", self._process.name, message.reason
            )

    def on_link(self, peer: ProcessId) -> None:
        """Act on a new link; a new router is told everything that the prefix cache holds."""
        self._duty.on_link(peer)
        if peer == ROUTER:
            self._publisher.resync()
        if peer.role is Role.HOST_CACHE and self._cache is not None:
            self._cache.opened()

    def on_unlink(self, peer: ProcessId, reason: str) -> None:
        """Act on the loss of the link to a peer."""
        if peer.role is Role.HOST_CACHE and self._cache is not None:
            self._cache.lost()
        if self._copies is not None:
            self._copies.forget(peer)
        self._duty.on_unlink(peer, reason)

    def on_control(self, message: ToChild) -> None:
        """Handle a message of the supervisor that is not about links."""
        match message:
            case Stop():
                self._stopping = True
            case SetPhase(phase):
                set_title(self._process, phase)
