"""The frontend process: connects the HTTP API with the links to all other processes."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Coroutine, Sequence
from functools import partial

import msgspec
import uvloop

from dynamo_cli.config import FrontendConfig, PlacementRule
from dynamo_cli.errors import Draining, PortInUse
from dynamo_cli.frontend import draining
from dynamo_cli.frontend.admin.adapters import Adapters
from dynamo_cli.frontend.admin.engines import EngineOperations
from dynamo_cli.frontend.admin.paths import Admin
from dynamo_cli.frontend.admin.prefill_bounds import Placement
from dynamo_cli.frontend.admin.scaling import Scaling
from dynamo_cli.frontend.after.ended import FinishedRequestFanout
from dynamo_cli.frontend.api import Api
from dynamo_cli.frontend.call import why_failed
from dynamo_cli.frontend.exchange import SHUTDOWN, Exchange
from dynamo_cli.frontend.http import files
from dynamo_cli.frontend.http.body import BodyReader
from dynamo_cli.frontend.http.server import HttpServer
from dynamo_cli.frontend.model_requests import ModelRequests
from dynamo_cli.frontend.status.gpus import Gpus
from dynamo_cli.frontend.status.host import HostMeter
from dynamo_cli.frontend.status.pages import StatusPages
from dynamo_cli.host import oserrors, vital
from dynamo_cli.host.proctitle import set_title
from dynamo_cli.ipc.codec import Decoder
from dynamo_cli.ipc.switchboard import Switchboard
from dynamo_cli.messages.admin import Operated
from dynamo_cli.messages.cluster import NodeTable
from dynamo_cli.messages.flows import ToChild, ToFrontend
from dynamo_cli.messages.host_cache import HostCacheStats, HostCopies
from dynamo_cli.messages.lifecycle import (
    AdaptersChanged,
    Drain,
    Drained,
    Listening,
    Logged,
    Phase,
    PhaseChange,
    PlacementChanged,
    Probe,
    ProbeResult,
    ProcessTable,
    Rescaled,
    SetPhase,
    Stop,
)
from dynamo_cli.messages.prefill import PrefillQueueStats, SetPlacement, TransferStats
from dynamo_cli.messages.request import Chunks, EngineReady, Finish, Head, Reply, RequestMoved
from dynamo_cli.messages.routing import Decisions, RouterStats
from dynamo_cli.messages.telemetry import ProcessorStats, WorkerStats
from dynamo_cli.topology import ProcessId, Role
from dynamo_cli.watch.episodes import Episodes
from dynamo_cli.watch.meter import Meter
from dynamo_cli.watch.schema import Snapshot
from dynamo_cli.watch.set_up import set_up
from dynamo_cli.watch.state import ASLEEP, TreeState

BACKLOG = 1024
SERVING_S = 1.0
"""Longest time that connections which wait since the previous frontend are not accepted, because
requests cannot be served yet, seconds. Afterwards their requests get an error that says why."""

LOOK_S = 1.0
"""Time between two looks at the tree for alarms, seconds."""

LAST_WORDS_S = 1.0
"""How long the end waits for clients to receive the errors of aborted requests, seconds."""

FLUSH_POLL_S = 0.01
"""Poll interval of that wait, seconds: the kernel has no event for it."""

logger = logging.getLogger(__name__)


def main(
    process: ProcessId, config: FrontendConfig, control: socket.socket, *inherited: socket.socket
) -> None:
    """Run the frontend until it is told to stop.

    Args:
        inherited: the sockets on which the previous frontend listened; none for the first one.

    Raises:
        PortInUse: it cannot listen at the address.
        UsageError: the file of ``--record`` cannot be written.
    """
    uvloop.run(Frontend(process, config, control).run(inherited))


class Frontend:
    """Sockets, exchange, and the `TreeState` that is made from the reports of all processes."""

    def __init__(self, process: ProcessId, config: FrontendConfig, control: socket.socket) -> None:
        self._process = process
        self._config = config
        self._switchboard = Switchboard(control, self)
        self._decoder = Decoder(ToFrontend)
        self._meter = Meter()
        self._gpus = Gpus(config.gpus)
        self._tree = TreeState(self._meter, config.served_names, time.monotonic_ns())
        self._tree.reached = False
        self._exchange = Exchange(self._switchboard, self._meter, config.migration)
        self._fanout = FinishedRequestFanout(config, self._meter, lambda: set_up(self._snapshot()))
        self._host = HostMeter(lambda: self._tree.processes, self._fanout.record_state)
        self._placement = Placement(config.placement, self._announce)
        report = self._switchboard.report
        self._engines = EngineOperations(self._switchboard, self._ready_peers)
        self._scaling = Scaling(report, self._snapshot)
        self._adapters = Adapters(
            self._exchange, config.adapters, lambda table: report(AdaptersChanged(table))
        )
        admin = Admin(
            enabled=config.admin,
            adapters=self._adapters,
            engines=self._engines,
            scaling=self._scaling,
            placement=self._placement,
        )
        bodies = BodyReader(config.max_body_bytes, config.body_timeout_s)
        self._models = ModelRequests(config, self._exchange, bodies, self._meter, self._tree)
        self._status = StatusPages(
            self._tree,
            self._meter,
            self._snapshot,
            self._fanout,
            self._models.running,
            config.max_pending_bytes,
            has_keys=bool(config.api_keys),
        )
        self._api = Api(
            config, bodies, self._meter, self._fanout, self._models, self._status, admin
        )
        self._rule = config.placement
        self._told_asleep = False
        self._episodes = Episodes()
        self._welcomed: set[ProcessId] = set()
        self._serving = asyncio.Event()
        self._stopped = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, inherited: Sequence[socket.socket]) -> None:
        """Serve until the supervisor sends `Stop`."""
        self._switchboard.report(PhaseChange(Phase.STARTING))
        await self._listen(inherited)
        self._switchboard.attach(asyncio.get_running_loop())
        self._look()
        self._switchboard.report(PhaseChange(Phase.READY, self._tree.url))
        await self._stopped.wait()
        self._listen_no_more()
        self._switchboard.close()
        self._fanout.close()
        self._gpus.close()
        self._host.close()

    @vital.callback
    def _look(self) -> None:
        """Make a snapshot, whoever asks for one: alarms need to know how long something lasts.

        The end of an alarm has the level of its begin, so that both are seen or none.
        """
        if not self._stopped.is_set():
            for news in self._episodes.news(self._snapshot()):
                logger.warning("%s", news)
            asyncio.get_running_loop().call_later(LOOK_S, self._look)

    async def _listen(self, inherited: Sequence[socket.socket]) -> None:
        """Listen on the inherited sockets, or else on the configured address.

        Raises:
            PortInUse: that is not possible.
        """
        host, port = self._config.host, self._config.port
        most = self._config.max_connections or files.connections()
        self._server = HttpServer(self._api.handle, self._config, self._fanout.turned_away, most)
        listen = partial(asyncio.get_running_loop().create_server, self._server, backlog=BACKLOG)
        try:
            if inherited:
                self._listeners = [await listen(sock=one, start_serving=False) for one in inherited]
                self._background(self._accept())
            else:
                self._listeners = [await listen(host, port)]
        except OSError as error:
            raise PortInUse(
                f"cannot listen on {host}:{port}: {oserrors.reason(error)}. "
                "Choose another address with --host or another port with --http-port."
            ) from error
        sockets = [one for listener in self._listeners for one in listener.sockets]
        self._switchboard.report(Listening(), [one.fileno() for one in sockets])
        port = sockets[0].getsockname()[1]
        self._tree.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    async def _accept(self) -> None:
        """Accept connections once requests can be served, or after `SERVING_S`."""
        await draining.at_most(SERVING_S, self._serving.wait())
        for listener in self._listeners if not self._tree.draining else ():
            await listener.start_serving()

    def _listen_no_more(self) -> None:
        for listener in self._listeners:
            listener.close()

    def _announce(self, rule: PlacementRule) -> None:
        """Send a new rule to all decode workers; `on_link` sends it to later ones.

        The supervisor gives it to the next frontend.
        """
        self._rule = rule
        self._switchboard.report(PlacementChanged(rule))
        for peer in self._switchboard.links:
            self._tell_rule(peer)

    def _tell_rule(self, peer: ProcessId) -> None:
        if peer.role is Role.WORKER and self._rule is not None:
            rule = self._rule
            message = SetPlacement(
                rule.conditional, rule.max_local_prefill_length, rule.max_prefill_queue_size
            )
            self._switchboard.owe(peer, message)

    def _snapshot(self) -> Snapshot:
        board, now = self._switchboard, time.monotonic_ns()
        host, calls = self._host.report(), self._exchange.load(now)
        snapshot = self._tree.snapshot(
            now, board.depth_bytes(), board.refused_sends(), host, calls, self._gpus.report
        )
        return msgspec.structs.replace(snapshot, recorded_requests=self._fanout.recorded)

    def _tell_sleep(self) -> None:
        """Log when all workers have gone to sleep, and when one is awake again."""
        if self._tree.asleep == self._told_asleep:
            return
        self._told_asleep = self._tree.asleep
        if self._told_asleep:
            logger.warning("every worker is %s; until then requests get 503", ASLEEP)
        else:
            logger.warning("awake: requests are served again")

    # -- switchboard handler ---------------------------------------------------------------

    def on_message(self, peer: ProcessId, payload: bytes) -> None:
        """Pass a message to the part that handles it."""
        match self._decoder(payload):
            case Chunks() as message:
                self._exchange.chunks(message)
            case Reply() | Head() as message:
                self._exchange.answered(message)
            case Finish() as message:
                self._exchange.finished(message)
            case RequestMoved() as message:
                self._exchange.moved(message)
            case (
                WorkerStats()
                | RouterStats()
                | EngineReady()
                | Decisions()
                | PrefillQueueStats()
                | TransferStats()
                | HostCacheStats()
                | HostCopies()
            ) as message:
                self._tree.apply(message, time.monotonic_ns())
                self._tell_sleep()
            case ProcessorStats() as stats:
                self._tree.processor_stats(peer.index, stats)
                self._exchange.begun(stats.begun)
            case Operated() as message:
                self._engines.answered(message)

    def on_link(self, peer: ProcessId) -> None:
        """Take a new link. A processor gets requests once the process table says it is ready."""
        self._tell_rule(peer)
        self._engines.linked(peer)

    def on_unlink(self, peer: ProcessId, reason: str) -> None:
        """Move or fail what a lost process was asked, and forget its reports."""
        self._engines.engine_gone(peer, reason)
        self._tree.lives.unlinked(peer, reason)
        match peer.role:
            case Role.PROCESSOR:
                self._welcomed.discard(peer)
                self._exchange.processor_down(peer, reason)
                self._note_serving()
                self._tree.processor_gone(peer.index)
            case Role.WORKER:
                self._tree.worker_gone(peer.index)
            case Role.ROUTER:
                self._tree.router_gone()
            case Role.PREFILL_QUEUE:
                self._tree.prefill.queue_gone()
            case Role.PREFILL_WORKER:
                self._tree.prefill_worker_gone(peer.index)
            case Role.HOST_CACHE:
                self._tree.host_cache.gone(peer.index)

    def on_control(self, message: ToChild) -> None:
        """Handle a message of the supervisor."""
        match message:
            case ProcessTable():
                self._on_table(message)
            case Logged() | NodeTable():
                self._tree.apply(message, time.monotonic_ns())
            case Probe(worker):
                self._background(self._probe(worker))
            case Drain(timeout_s):
                self._background(self._drain(timeout_s))
            case Rescaled() as message:
                self._scaling.answered(message)
            case SetPhase(phase):
                set_title(self._process, phase)
            case Stop():
                self._stopped.set()

    def _on_table(self, table: ProcessTable) -> None:
        self._tree.apply(table, time.monotonic_ns())
        self._note_serving()
        for state in table.processes:
            process = ProcessId(state.role, state.index)
            linked = process in self._switchboard.links
            if state.role is Role.PROCESSOR and state.phase == Phase.READY and linked:
                self._welcome(process)

    def _welcome(self, processor: ProcessId) -> None:
        if processor not in self._welcomed:
            self._welcomed.add(processor)
            generation = self._switchboard.links[processor].generation
            self._background(self._let_in(processor, generation))

    async def _let_in(self, processor: ProcessId, generation: int) -> None:
        await self._adapters.welcome(processor, generation)
        self._note_serving()

    def _note_serving(self) -> None:
        """Note whether requests can be served: the tree may be ready before a new frontend is."""
        self._tree.reached = bool(self._exchange.processors)
        if self._tree.up and self._tree.reached:
            self._serving.set()

    def _ready_peers(self) -> list[ProcessId]:
        """The processes that are ready and linked."""
        ready = [process for process in self._tree.processes if process.phase == Phase.READY]
        named = [ProcessId(process.role, process.index) for process in ready]
        return [process for process in named if process in self._switchboard.links]

    # -- work of its own -------------------------------------------------------------------

    async def _probe(self, worker: int) -> None:
        """Have a worker generate one token, and report to the supervisor how that went."""
        timeout_s = self._config.first_answer_timeout_s
        try:
            answer = await self._exchange.probe(worker, timeout_s)
            error = why_failed(answer)
        except TimeoutError:
            error = f"no answer within {timeout_s:.0f} s"
        self._switchboard.report(ProbeResult(worker, error))

    async def _drain(self, timeout_s: float) -> None:
        """Refuse new requests, wait for those in flight, then abort what is left."""
        if not self._tree.draining:
            set_title(self._process, Phase.DRAINING)
            self._tree.draining = True
            self._listen_no_more()
            self._status.close()
        await draining.finish(self._meter, self._models.idle, self._switchboard.report, timeout_s)
        remaining = self._meter.in_flight
        if remaining:
            failure = Draining("the server was shut down before the answer was complete.")
            self._exchange.abort_all(SHUTDOWN, failure)
        await draining.at_most(LAST_WORDS_S, self._flushed())
        self._switchboard.report(Drained(remaining))

    async def _flushed(self) -> None:
        """Wait until all requests have ended and the kernel has all that was written."""
        await self._models.idle()
        while self._server.unsent_bytes():  # noqa: ASYNC110
            await asyncio.sleep(FLUSH_POLL_S)

    def _background(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        vital.watch(task)
