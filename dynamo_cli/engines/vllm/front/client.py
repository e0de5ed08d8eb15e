"""An engine client for vLLM's AsyncLLM, with shared-memory links and a router instead of sockets.

AsyncLLM talks to it as to a single engine. It sends each request to the worker that `Workers.place`
names, and gathers the outputs of all workers.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from vllm.lora.request import LoRARequest
from vllm.v1.engine import (
    EngineCoreEvent,
    EngineCoreEventType,
    EngineCoreOutputs,
    EngineCoreRequest,
    FinishReason,
    UtilityOutput,
)
from vllm.v1.engine.core_client import EngineCoreClient
from vllm.v1.serial_utils import MsgpackDecoder, MsgpackEncoder

from dynamo_cli.engines.vllm.core.events import sequence_hashes
from dynamo_cli.engines.vllm.front.failures import RequestFailed
from dynamo_cli.engines.vllm.front.trace import PromptTrace, RequestTrace, current_trace
from dynamo_cli.engines.vllm.front.workers import ChosenWorker, Workers
from dynamo_cli.errors import (
    DynamoError,
    InternalError,
    InvalidRequest,
    LinkFull,
    NotReady,
    PeerLost,
    Unavailable,
)
from dynamo_cli.kv import hashes
from dynamo_cli.messages.prefill import PrefilledElsewhere
from dynamo_cli.messages.request import (
    AbortRequests,
    AddRequest,
    CallUtility,
    EngineReady,
    Prompt,
    RequestRefused,
    StepOutputs,
    UtilityAnswer,
)
from dynamo_cli.messages.routing import RouteQuery
from dynamo_cli.units import SECOND_NS

STOPPED = str(FinishReason.STOP)

logger = logging.getLogger(__name__)


class _Live(NamedTuple):
    """An engine request that is on a worker."""

    worker: int
    trace: RequestTrace
    prompt: PromptTrace | None


class _Resources:
    """Tells AsyncLLM that the engine is alive: workers that die are started again."""

    engine_dead = False


class RoutedClient(EngineCoreClient):  # type: ignore[misc]
    """A single engine for AsyncLLM, with many workers behind it.

    Args:
        workers: links and routing.
        kv_routing: whether the router needs the block hashes of each prompt.
        record: whether requests are recorded, with the block hashes of their prompts.

    Attributes:
        fail: ends a request inside AsyncLLM with an exception; set by the owner of AsyncLLM.
    """

    def __init__(self, workers: Workers, *, kv_routing: bool = False, record: bool = False) -> None:
        self.resources = _Resources()
        self.engine_ranks_managed = [0]  # AsyncLLM reads this
        self.fail: Callable[[str, Exception], None]
        self._workers = workers
        self._kv_routing = kv_routing
        self._record = record
        self._live: dict[str, _Live] = {}
        self._calls: dict[int, tuple[int, asyncio.Future[Any]]] = {}
        self._call_ids = itertools.count()
        self._outputs: asyncio.Queue[EngineCoreOutputs] = asyncio.Queue()
        self._encoder = MsgpackEncoder()
        self._steps = MsgpackDecoder(EngineCoreOutputs)
        self._answers = MsgpackDecoder(UtilityOutput)
        self._ready: asyncio.Future[EngineReady] = asyncio.get_running_loop().create_future()

    @property
    def live(self) -> int:
        """Number of engine requests that are on a worker."""
        return len(self._live)

    @property
    def calls(self) -> int:
        """Number of utility calls that workers have not answered."""
        return len(self._calls)

    # -- called by the processor -----------------------------------------------------------

    def engine_ready(self, message: EngineReady) -> None:
        """Keep what the first engine says of itself; all engines run the same model."""
        if not self._ready.done():
            self._ready.set_result(message)

    async def first_ready(self) -> EngineReady:
        """Wait for the first engine, and return what it says of itself."""
        return await asyncio.shield(self._ready)

    def step_outputs(self, message: StepOutputs) -> None:
        """Note what a step gave to each request, and pass it on to AsyncLLM: the hot path."""
        outputs = self._steps.decode(message.frames)
        for output in outputs.outputs:
            live = self._live.get(output.request_id)
            if live is None:
                continue
            trace = live.trace
            if output.prefill_stats is not None:
                cached = output.prefill_stats.num_cached_tokens
                trace.cached_tokens += cached
                trace.first_token(*_engine_times(output.events))
                self._workers.first_token(output.request_id, cached)
            trace.add_output(len(output.new_token_ids))
            if live.prompt is not None:
                live.prompt.output_tokens += len(output.new_token_ids)
            if output.finish_reason is not None:
                trace.ended(str(output.finish_reason))
                self._forget(output.request_id)
        self._outputs.put_nowait(outputs)

    def prefilled_elsewhere(self, message: PrefilledElsewhere) -> None:
        """Note that a prefill worker computed the prompt of a request."""
        live = self._live.get(message.request_id)
        if live is not None and live.trace.elsewhere is None:
            live.trace.elsewhere = message

    def request_refused(self, message: RequestRefused) -> None:
        """Fail a request that the engine refused or lost."""
        # The first class whose status is not below the one that the worker told: 400, 500, 503.
        refused = next(
            kind
            for kind in (InvalidRequest, InternalError, Unavailable)
            if message.http_status <= kind.http_status
        )
        told = message.message
        if refused is InternalError and (live := self._live.get(message.request_id)) is not None:
            told += f" (request id {live.trace.api_id})"
        self._fail(message.request_id, refused(told))

    def utility_answer(self, message: UtilityAnswer) -> None:
        """Give the result of a utility call to whoever waits for it."""
        _, future = self._calls.pop(message.call_id, (None, None))
        if future is None or future.done():
            return
        if message.error:
            future.set_exception(InternalError(message.error))
        else:
            future.set_result(self._answers.decode(message.result).result.result)

    def held_for(self, trace: RequestTrace) -> list[str]:
        """Return the engine requests of one API request that are not over."""
        return [request_id for request_id, live in self._live.items() if live.trace is trace]

    def outputs_lost(self, worker: int) -> None:
        """Fail all requests on this worker, because tokens of some of them are lost.

        The worker has aborted those that it knew when it lost the outputs. Requests that reached it
        later still run, so they are aborted here.
        """
        error = LinkFull(f"worker {worker} could not hand over its answers. Send it again.")
        lost = [request_id for request_id, live in self._live.items() if live.worker == worker]
        for request_id in lost:
            self._fail(request_id, error)
        if lost:
            self._workers.send(worker, AbortRequests(lost))

    def worker_lost(self, worker: int, reason: str) -> None:
        """Fail all requests and utility calls on a worker that is gone."""
        error = PeerLost(
            f"worker {worker} stopped while it held this request ({reason}). Send it again."
        )
        for request_id in [rid for rid, live in self._live.items() if live.worker == worker]:
            self._live[request_id].trace.error = "worker_lost"
            self._fail(request_id, error)
        for call_id in [cid for cid, (owner, _) in self._calls.items() if owner == worker]:
            self._calls.pop(call_id)[1].set_exception(error)

    def _fail(self, request_id: str, error: DynamoError) -> None:
        if (live := self._live.get(request_id)) is not None:
            live.trace.failure = error
            self._forget(request_id)
            self.fail(request_id, RequestFailed(error))

    def _forget(self, request_id: str) -> None:
        if self._live.pop(request_id, None) is not None:
            self._workers.ended(request_id)

    # -- called by AsyncLLM ----------------------------------------------------------------

    async def add_request_async(self, request: EngineCoreRequest) -> None:
        """Have a worker chosen for an engine request, and send it there."""
        trace = current_trace.get()
        trace.prepared()
        prepared_ns = time.monotonic_ns()
        request_id = request.request_id
        tokens = _take_tokens(request)
        placed = False
        try:
            answer = await self._place(trace, request, tokens)
            placed = True
        except DynamoError as error:
            trace.failure = error
            raise RequestFailed(error) from error
        finally:
            if not placed:
                # AsyncLLM has registered the request already, and would never remove it otherwise.
                self.fail(request_id, RequestFailed(NotReady("the request was not placed.")))
        routed_ns = time.monotonic_ns()
        worker, request.priority = answer.worker, answer.engine_order
        family = _family(request)
        self._live[request_id] = _Live(worker, trace, trace.prompts.get(family))
        # A client may use an id twice, and workers treat requests with the same external id as the
        # n answers to one prompt. So it is made of the frontend's key, which is unique.
        request.external_req_id = f"{trace.request_id}/{family}"
        frames = [bytes(frame) for frame in self._encoder.encode(request)]
        probe = trace.worker is not None
        message = AddRequest(request_id, tokens, frames, answer.prefill_worker, probe)
        trace.sent(prepared_ns, routed_ns)
        if not self._workers.send(worker, message):
            self._fail(request_id, Unavailable(f"worker {worker} takes no more. Send it again."))

    async def _place(
        self, trace: RequestTrace, request: EngineCoreRequest, tokens: bytes
    ) -> ChosenWorker:
        """Return the router's choice for the first of a family, and the same for its siblings."""
        request_id, prompt_tokens = request.request_id, len(tokens) // hashes.TOKEN_BYTES
        family = _family(request)
        if (first := trace.placed.get(family)) is not None:
            self._workers.follow(request_id, first.worker, prompt_tokens)
            return ChosenWorker(first.worker, 0, None, first.engine_order)
        if trace.worker is not None:
            self._workers.follow(request_id, trace.worker, prompt_tokens)
            answer = ChosenWorker(trace.worker, 0, None, request.priority)
        else:
            answer = await self._workers.place(self._query(trace, request, tokens))
            trace.overlap_blocks = answer.overlap_blocks
        trace.placed[family] = answer
        trace.prompt_tokens += prompt_tokens
        return answer

    def _query(self, trace: RequestTrace, request: EngineCoreRequest, tokens: bytes) -> RouteQuery:
        routable = self._kv_routing and not request.params.skip_reading_prefix_cache
        blocks, block_size = b"", self._ready.result().block_size
        if routable or self._record:
            blocks = hashes.pack(sequence_hashes(request, tokens, block_size))
        prompt_tokens, session = len(tokens) // hashes.TOKEN_BYTES, request.session_id or ""
        if self._record:
            prompt = Prompt(prompt_tokens, 0, block_size, blocks, session, request.priority)
            trace.prompts[_family(request)] = PromptTrace(prompt)
        return RouteQuery(
            request_id=request.request_id,
            api_id=trace.api_id,
            prompt_tokens=prompt_tokens,
            hashes=blocks if routable else b"",
            session=session,
            priority=request.priority,
        )

    async def get_output_async(self) -> EngineCoreOutputs:
        """Wait for the outputs of the next step of any worker."""
        return await self._outputs.get()

    async def abort_requests_async(self, request_ids: list[str]) -> None:
        """Tell the workers of these requests to stop them."""
        by_worker: dict[int, list[str]] = {}
        for request_id in request_ids:
            if (live := self._live.get(request_id)) is not None:
                # It has met a stop string, or its client has left and nobody will ask why it ended.
                live.trace.ended(STOPPED)
                by_worker.setdefault(live.worker, []).append(request_id)
                self._forget(request_id)
        for worker, ids in by_worker.items():
            self._workers.send(worker, AbortRequests(ids))

    async def get_supported_tasks_async(self) -> tuple[str, ...]:
        """Wait for the first engine, and return what the model can do, in vLLM's words."""
        return tuple((await self.first_ready()).tasks)

    async def reset_mm_cache_async(self) -> None:
        """Have all workers empty their multimodal caches."""
        await self._call_all("reset_mm_cache")

    async def add_lora_async(self, lora_request: LoRARequest) -> bool:
        """Have all workers load an adapter; True if each of them has it."""
        await self.first_ready()
        return all(await self._call_all("add_lora", lora_request))

    async def _call_all(self, method: str, *args: Any) -> list[Any]:
        """Call all workers, and return the results of those that do not die before they answer."""
        results = await asyncio.gather(
            *(self._call(worker, method, args) for worker in self._workers.ready_workers()),
            return_exceptions=True,
        )
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, PeerLost):
                raise result
        return [result for result in results if not isinstance(result, PeerLost)]

    async def _call(self, worker: int, method: str, args: tuple[Any, ...]) -> Any:
        call_id = next(self._call_ids)
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._calls[call_id] = (worker, future)
        frames = [bytes(frame) for frame in self._encoder.encode(args)]
        if not self._workers.send(worker, CallUtility(call_id, method, frames)):
            del self._calls[call_id]
            raise PeerLost(f"worker {worker} cannot be reached.")
        return await future

    def dp_engines_running(self) -> bool:
        """Return False: engines have no data-parallel groups here."""
        return False

    def shutdown(self, timeout: float | None = None) -> None:
        """Do nothing: the supervisor owns the workers."""


def _family(request: EngineCoreRequest) -> str:
    """Return a name that the n requests for one prompt share."""
    return str(request.external_req_id or request.request_id)


def _take_tokens(request: EngineCoreRequest) -> bytes:
    """Take the token ids out of the request: as raw bytes they are far cheaper to send."""
    if request.prompt_token_ids is None or request.prompt_embeds is not None:
        return b""
    tokens = hashes.pack_tokens(request.prompt_token_ids)
    request.prompt_token_ids = None
    return tokens


def _engine_times(events: list[EngineCoreEvent] | None) -> tuple[int, int]:
    """Return when the engine queued and first scheduled a request, ns; 0 where it is not said."""
    times: dict[EngineCoreEventType, int] = {}
    for event in events or ():
        times.setdefault(event.type, int(event.timestamp * SECOND_NS))
    return (
        times.get(EngineCoreEventType.QUEUED, 0),
        times.get(EngineCoreEventType.SCHEDULED, 0),
    )
