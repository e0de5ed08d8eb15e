"""The frontend's loop: HTTP on one side, processors on the other."""

from __future__ import annotations

import asyncio
import logging
import socket
import time

import uvloop
from aiohttp import web

from dynamo_cli.config import FrontendConfig
from dynamo_cli.errors import DynamoError, Draining, NotReady, PortInUse
from dynamo_cli.frontend.api import Api
from dynamo_cli.frontend.exchange import SHUTDOWN, Exchange
from dynamo_cli.frontend.server import HttpServer
from dynamo_cli.ipc.codec import Decoder
from dynamo_cli.ipc.switchboard import Switchboard
from dynamo_cli.messages import (
    Chunks,
    Drain,
    Drained,
    EngineReady,
    Finish,
    Head,
    Phase,
    PhaseChange,
    Probe,
    ProbeResult,
    ProcessTable,
    Reply,
    RouterStats,
    SetPhase,
    Stop,
    ToChild,
    ToFrontend,
    WorkerStats,
)
from dynamo_cli.proctitle import set_title
from dynamo_cli.telemetry.fold import Fold
from dynamo_cli.telemetry.meter import Meter
from dynamo_cli.telemetry.snapshot import Snapshot
from dynamo_cli.topology import ProcessId, Role

BACKLOG = 1024
LAST_WORDS_S = 1.0

logger = logging.getLogger(__name__)


def main(process: ProcessId, config: FrontendConfig, control: socket.socket) -> None:
    """Run the frontend until it is told to stop."""
    uvloop.run(Frontend(process, config, control).run())


class Frontend:
    """Sockets, exchange and the fold of everybody's reports."""

    def __init__(self, process: ProcessId, config: FrontendConfig, control: socket.socket) -> None:
        self._process = process
        self._config = config
        self._switchboard = Switchboard(control, self)
        self._decoder = Decoder(ToFrontend)
        self._meter = Meter()
        self._fold = Fold(self._meter, config.served_names, time.monotonic_ns())
        self._exchange = Exchange(self._switchboard, self._meter, config.max_pending_bytes)
        self._api = Api(config, self._exchange, self._meter, self._snapshot)
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        self._stopped = asyncio.Event()
        self._switchboard.report(PhaseChange(Phase.STARTING))
        await self._listen()
        self._switchboard.attach(loop)
        self._switchboard.report(PhaseChange(Phase.READY))
        await self._stopped.wait()
        await self._runner.cleanup()
        self._switchboard.close()

    async def _listen(self) -> None:
        """Bind the port. Raises `PortInUse` when that cannot be."""
        server = HttpServer(self._api.handle, self._config.max_body_bytes)
        self._runner = web.ServerRunner(server, shutdown_timeout=LAST_WORDS_S)
        await self._runner.setup()
        host, port = self._config.host, self._config.port
        self._site = web.TCPSite(self._runner, host, port, backlog=BACKLOG)
        try:
            await self._site.start()
        except OSError as error:
            raise PortInUse(
                f"cannot listen on {host}:{port}: {error.strerror or error}. "
                "Choose another address with --host and --http-port."
            ) from error

    def _snapshot(self) -> Snapshot:
        board = self._switchboard
        return self._fold.snapshot(time.monotonic_ns(), board.depth_bytes(), board.refused_sends())

    # -- switchboard handler ---------------------------------------------------------------

    def on_message(self, peer: ProcessId, payload: bytes) -> None:
        match self._decoder(payload):
            case Chunks() as message:
                self._exchange.chunks(message)
            case Reply() | Head() as message:
                self._exchange.answered(message)
            case Finish() as message:
                self._exchange.finished(message)
            case WorkerStats() | RouterStats() | EngineReady() as message:
                self._fold.apply(message)

    def on_link(self, peer: ProcessId) -> None:
        """Processors are used when the process table says that they are ready."""

    def on_unlink(self, peer: ProcessId, reason: str) -> None:
        match peer.role:
            case Role.PROCESSOR:
                self._exchange.processor_down(peer, reason)
            case Role.WORKER:
                self._fold.worker_gone(peer.index)

    def on_control(self, message: ToChild) -> None:
        match message:
            case ProcessTable():
                self._on_table(message)
            case Probe(worker):
                self._background(self._probe(worker))
            case Drain(timeout_s):
                self._background(self._drain(timeout_s))
            case SetPhase(phase):
                set_title(self._process, phase)
            case Stop():
                self._stopped.set()

    def _on_table(self, table: ProcessTable) -> None:
        self._fold.apply(table)
        for state in table.processes:
            processor = ProcessId(state.role, state.index)
            linked = processor in self._switchboard.links
            if state.role is Role.PROCESSOR and state.phase == Phase.READY and linked:
                self._exchange.processor_up(processor)

    # -- work of its own -------------------------------------------------------------------

    async def _probe(self, worker: int) -> None:
        """One token through processor and worker and back."""
        error = ""
        try:
            async with asyncio.timeout(self._config.first_answer_timeout_s):
                answer = await self._first_answer(worker)
        except TimeoutError:
            error = f"no answer within {self._config.first_answer_timeout_s:.0f} s"
        except DynamoError as failure:
            error = failure.message
        else:
            if not isinstance(answer, Reply) or answer.status != 200:
                error = f"answered with {answer}"
        self._switchboard.report(ProbeResult(worker, error))

    async def _first_answer(self, worker: int) -> Reply | Head:
        while True:
            try:
                call = self._exchange.probe(worker)
            except NotReady:
                await asyncio.sleep(0.02)  # no processor is ready yet
                continue
            try:
                return await call.answer
            finally:
                self._exchange.close(call)

    async def _drain(self, timeout_s: float) -> None:
        """Turn newcomers away, wait for the rest, end what is left."""
        set_title(self._process, Phase.DRAINING)
        self._api.draining = True
        await self._site.stop()
        deadline = time.monotonic() + timeout_s
        while self._meter.in_flight and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        remaining = self._meter.in_flight
        if remaining:
            self._meter.aborts[SHUTDOWN] += remaining
            self._exchange.fail_all(
                Draining("the server was shut down before the answer was complete.")
            )
            await asyncio.sleep(0.1)  # their last words go out
        self._switchboard.report(Drained(remaining))

    def _background(self, work: object) -> None:
        task = asyncio.get_running_loop().create_task(work)  # type: ignore[arg-type]
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
