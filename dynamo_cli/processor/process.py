"""The processor's event loop: passes requests to the engines, and their outputs back as answers."""

from __future__ import annotations

import asyncio
import logging
import socket

import uvloop

from dynamo_cli.config import ProcessorConfig
from dynamo_cli.engines.vllm.front.serving import Serving
from dynamo_cli.engines.vllm.front.trace import RequestTrace
from dynamo_cli.errors import DynamoError, LinkFull, TooLarge
from dynamo_cli.host import garbage, vital
from dynamo_cli.host.proctitle import set_title
from dynamo_cli.ipc.codec import Decoder
from dynamo_cli.ipc.switchboard import Switchboard
from dynamo_cli.messages.admin import LoadAdapter, UnloadAdapter
from dynamo_cli.messages.flows import FromRouter, FromWorker, ToChild, ToProcessor
from dynamo_cli.messages.lifecycle import Phase, PhaseChange, Rescued, Retire, SetPhase, Stop
from dynamo_cli.messages.prefill import PrefilledElsewhere
from dynamo_cli.messages.request import (
    Abort,
    Ask,
    Chunk,
    Chunks,
    EngineReady,
    Finish,
    ForProcessor,
    Head,
    Move,
    OutputsLost,
    Reply,
    RequestMoved,
    RequestRefused,
    StepOutputs,
    Submit,
    SubmitProbe,
    UtilityAnswer,
)
from dynamo_cli.messages.routing import RouteAnswer
from dynamo_cli.messages.telemetry import ProcessorStats
from dynamo_cli.processor.dispatch import Dispatch
from dynamo_cli.topology import FRONTEND, ProcessId, Role

REPORT_INTERVAL_S = 0.25
"""Shortest time between two `ProcessorStats`."""

ANNOUNCE_INTERVAL_S = 20.0
"""Interval at which running requests are announced to the router. It forgets a request that it has
not heard of for several of these intervals."""

logger = logging.getLogger(__name__)


def main(process: ProcessId, config: ProcessorConfig, control: socket.socket) -> None:
    """Run processor `process` until it is told to stop."""
    uvloop.run(Processor(process, config, control).run())


class Processor:
    """Runs `Serving` between one frontend, the router and all workers."""

    def __init__(self, process: ProcessId, config: ProcessorConfig, control: socket.socket) -> None:
        self._process = process
        self._config = config
        self._switchboard = Switchboard(control, self)
        self._dispatch = Dispatch(self._switchboard, routed=config.routed)
        self._from_frontend = Decoder(ToProcessor)
        self._from_worker = Decoder(FromWorker)
        self._from_router = Decoder(FromRouter)
        self._requests: dict[str, tuple[ForProcessor, asyncio.Task[None]]] = {}
        self._chunks: list[Chunk] = []
        self._report_is_due = False
        self._stopped = asyncio.Event()

    async def run(self) -> None:
        """Load the tokenizer, then serve until the supervisor says `Stop`."""
        self._loop = asyncio.get_running_loop()
        self._switchboard.report(PhaseChange(Phase.LOADING, "tokenizer"))
        config = self._config
        self._serving = Serving(
            config.engine,
            self._dispatch,
            kv_routing=config.kv_routing,
            debug_headers=config.debug_headers,
            log_prompts=config.log_prompts,
            record=config.record,
            rule=config.migration,
        )
        self._serving.client.mover.told = self._moved
        self._switchboard.attach(self._loop)
        self._switchboard.report(PhaseChange(Phase.WARMING, "waiting for an engine"))
        started = asyncio.create_task(self._start())
        stopped = asyncio.create_task(self._stopped.wait())
        await asyncio.wait({started, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if started.done():
            await started
            await stopped
        self._switchboard.close()

    async def _start(self) -> None:
        await self._serving.start()
        garbage.collect_seldom(self._loop)
        self._switchboard.report(PhaseChange(Phase.READY))
        self._announce()

    @vital.callback
    def _announce(self) -> None:
        self._dispatch.announce_running()
        self._loop.call_later(ANNOUNCE_INTERVAL_S, self._announce)

    # -- requests --------------------------------------------------------------------------

    def _begin(self, request: ForProcessor) -> None:
        task = self._loop.create_task(self._answer(request))
        self._requests[request.request_id] = request, task
        task.add_done_callback(lambda _: self._requests.pop(request.request_id, None))
        self._changed()

    def _changed(self) -> None:
        """Schedule one report to the frontend, for all changes until it is sent."""
        if not self._report_is_due:
            self._report_is_due = True
            self._loop.call_later(REPORT_INTERVAL_S, self._report)

    @vital.callback
    def _report(self) -> None:
        self._report_is_due = False
        client, dispatch = self._serving.client, self._dispatch
        stats = ProcessorStats(
            dispatch.unrouted,
            self._switchboard.refused_sends(),
            requests=len(self._requests),
            engine_requests=client.live,
            placed=dispatch.placed,
            queries=dispatch.queries,
            calls=len(client.calls),
            begun=tuple(client.begun),
            preparing=self._serving.preparing,
        )
        client.begun = []
        self._switchboard.send(FRONTEND, stats)
        if stats.requests or stats.engine_requests or stats.placed or stats.queries or stats.calls:
            self._changed()

    async def _answer(self, request: ForProcessor) -> None:
        try:
            await self._serving.handle(request, self._tell)
        except Exception as error:  # the entry of a request: any failure must become an answer
            logger.exception("request %s could not be answered", request.api_id)
            self._end(request, error)

    def _tell(self, message: Reply | Head | Chunk | Finish) -> None:
        match message:
            case Chunk():
                self._add_chunk(message)
            case Finish(name) if self._chunks and self._chunks[-1].request_id == name:
                self._flush(message)
            case Finish():
                self._flush()
                self._switchboard.owe(FRONTEND, message)
            case _:
                self._flush()
                self._send({message.request_id}, message)

    def _add_chunk(self, chunk: Chunk) -> None:
        """Collect the chunks of this iteration of the event loop into one message."""
        if not self._chunks:
            self._loop.call_soon(self._flush)
        self._chunks.append(chunk)

    @vital.callback
    def _flush(self, finish: Finish | None = None) -> None:
        if self._chunks:
            chunks, self._chunks = self._chunks, []
            self._send({chunk.request_id for chunk in chunks}, Chunks(chunks, finish))

    def _send(self, request_ids: set[str], message: Reply | Head | Chunks) -> None:
        """Send a part of the answers to these requests; fail them if it cannot be sent."""
        try:
            if self._switchboard.offer(FRONTEND, message):
                return
        except TooLarge as error:
            self._give_up(request_ids, error)
            return
        if FRONTEND not in self._switchboard.links:
            return  # the frontend is gone, and nobody waits for the answers
        logger.error("the link to the frontend is full: %d answers fail", len(request_ids))
        self._give_up(
            request_ids, LinkFull("a part of the answer was lost. Send the request again.")
        )

    def _give_up(self, request_ids: set[str], error: DynamoError) -> None:
        for request_id in request_ids & self._requests.keys():
            request, task = self._requests[request_id]
            task.cancel()
            self._end(request, error)

    def _end(self, request: ForProcessor, error: Exception) -> None:
        """End an answer with an error, whether it has begun or not."""
        for message in self._serving.last_words(request, error):
            self._switchboard.owe(FRONTEND, message)

    def _abort(self, request_id: str) -> None:
        if (request := self._requests.get(request_id)) is not None:
            request[1].cancel()

    def _moved(self, trace: RequestTrace, move: Move) -> None:
        """Tell the frontend that a request has moved, or found no worker in time."""
        message = RequestMoved(trace.request_id, trace.api_id, move)
        self._switchboard.owe(FRONTEND, message)

    # -- switchboard handler ---------------------------------------------------------------

    def on_message(self, peer: ProcessId, payload: bytes) -> None:
        """Decode and handle a message of a worker, the frontend or the router."""
        match peer.role:
            case Role.WORKER:
                self._on_worker(peer.index, payload)
            case Role.FRONTEND:
                self._on_frontend(payload)
            case Role.ROUTER:
                self._on_router(payload)

    def _on_worker(self, worker: int, payload: bytes) -> None:
        match self._from_worker(payload):
            case StepOutputs() as message:
                self._serving.client.step_outputs(message)
            case OutputsLost():
                self._serving.client.outputs_lost(worker)
            case RequestRefused() as message:
                self._serving.client.request_refused(message)
            case PrefilledElsewhere() as message:
                self._serving.client.prefilled_elsewhere(message)
            case UtilityAnswer() as message:
                self._serving.client.calls.answered(message)
            case EngineReady() as message:
                self._dispatch.worker_ready(worker)
                self._serving.client.engine_ready(message)

    def _on_frontend(self, payload: bytes) -> None:
        match self._from_frontend(payload):
            case Abort(request_id):
                self._abort(request_id)
            case Submit() | SubmitProbe() | Ask() | LoadAdapter() | UnloadAdapter() as request:
                self._begin(request)

    def _on_router(self, payload: bytes) -> None:
        match self._from_router(payload):
            case RouteAnswer() as answer:
                self._dispatch.answered(answer)

    def on_link(self, peer: ProcessId) -> None:
        """Tell a new router what runs; a worker is used only once it has said `EngineReady`."""
        if peer.role is Role.ROUTER:
            self._dispatch.announce_running()

    def on_unlink(self, peer: ProcessId, reason: str) -> None:
        """Move, fail or cancel the requests that depend on a process that is gone."""
        match peer.role:
            case Role.WORKER:
                self._dispatch.worker_gone(peer.index)
                lost = self._serving.client.worker_lost(peer.index, reason)
                self._switchboard.report(Rescued(peer.name, lost.moved, lost.failed))
            case Role.ROUTER:
                self._dispatch.router_gone()
            case Role.FRONTEND:
                for _, task in list(self._requests.values()):
                    task.cancel()

    def on_control(self, message: ToChild) -> None:
        """Do what the supervisor says."""
        match message:
            case Stop():
                self._stopped.set()
            case Retire(worker):
                self._dispatch.worker_retired(worker)
                self._serving.client.worker_retired(worker)
            case SetPhase(phase):
                set_title(self._process, phase)
