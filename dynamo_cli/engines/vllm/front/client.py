"""An engine client for vLLM's AsyncLLM, with shared-memory links and a router instead of sockets.

AsyncLLM talks to it as to a single engine. The client sends each request to the worker that
`Workers.place` names, moves it if that worker cannot finish it, and gathers the outputs of all.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from vllm.lora.request import LoRARequest
from vllm.v1.engine import (
    EngineCoreOutput,
    EngineCoreOutputs,
    EngineCoreRequest,
    FinishReason,
)
from vllm.v1.engine.core_client import EngineCoreClient
from vllm.v1.serial_utils import MsgpackDecoder, MsgpackEncoder

from dynamo_cli.config import MigrationRule
from dynamo_cli.engines.vllm.front.calls import UtilityCalls
from dynamo_cli.engines.vllm.front.failures import RequestFailed
from dynamo_cli.engines.vllm.front.first_token_deadlines import FirstTokenDeadlines
from dynamo_cli.engines.vllm.front.live import LiveRequest, engine_times, family_of, take_tokens
from dynamo_cli.engines.vllm.front.moves import Lost, Mover
from dynamo_cli.engines.vllm.front.prompt_scores import PromptScores
from dynamo_cli.engines.vllm.front.queries import Queries
from dynamo_cli.engines.vllm.front.trace import RequestTrace, current_trace
from dynamo_cli.engines.vllm.front.workers import ChosenWorker, Workers
from dynamo_cli.errors import (
    Asleep,
    DynamoError,
    InternalError,
    InvalidRequest,
    LinkFull,
    NotReady,
    PeerLost,
    TooLarge,
    Unavailable,
)
from dynamo_cli.kv import hashes
from dynamo_cli.messages.lifecycle import move_reason
from dynamo_cli.messages.prefill import PrefilledElsewhere
from dynamo_cli.messages.request import (
    AbortRequests,
    AddRequest,
    EngineReady,
    MoveReason,
    RequestRefused,
    StepOutputs,
)

DEFAULT_RULE = MigrationRule()
STOPPED = str(FinishReason.STOP)

logger = logging.getLogger(__name__)


class _Resources:
    """Tells AsyncLLM that the engine is alive: workers that die are started again."""

    engine_dead = False


class RoutedClient(EngineCoreClient):  # type: ignore[misc]
    """A single engine for AsyncLLM, with many workers behind it.

    Args:
        workers: links and routing.
        kv_routing: whether the router needs the block hashes of each prompt.
        record: whether requests are recorded, with the block hashes of their prompts.
        rule: how requests move to another worker when theirs is lost.

    Attributes:
        fail: ends a request inside AsyncLLM with an exception; set by the owner of AsyncLLM.
        scores: converts log probabilities of long prompts.
        calls: calls of methods of the engines.
        mover: moves requests to other workers.
        begun: API requests that have their first token and are not streamed, since the owner last
            emptied this list.
    """

    def __init__(
        self,
        workers: Workers,
        *,
        kv_routing: bool = False,
        record: bool = False,
        rule: MigrationRule = DEFAULT_RULE,
    ) -> None:
        self.resources = _Resources()
        self.engine_ranks_managed = [0]  # AsyncLLM reads this
        self.fail: Callable[[str, Exception], None]
        self._workers = workers
        self._queries = Queries(
            kv_routing=kv_routing,
            record=record,
            block_size=lambda: self._ready.result().block_size,
        )
        self._live: dict[str, LiveRequest] = {}  # requests on a worker, by `LiveRequest.wire_id`
        self._names: dict[str, LiveRequest] = {}  # requests that AsyncLLM waits for, by its own id
        self.scores = PromptScores(lambda outputs: self._put(EngineCoreOutputs(outputs=outputs)))
        self.calls = UtilityCalls(workers)
        self._deadlines = FirstTokenDeadlines(
            rule.first_token_timeout_s, workers, self._hurry, self._give_up
        )
        self.mover = Mover(rule, workers, self._queries.of_moved, self._send, self._end)
        self.begun: list[str] = []
        self._outputs: asyncio.Queue[EngineCoreOutputs] = asyncio.Queue()
        self._put = self._outputs.put_nowait
        self._encoder = MsgpackEncoder()
        self._steps = MsgpackDecoder(EngineCoreOutputs)
        self._ready: asyncio.Future[EngineReady] = asyncio.get_running_loop().create_future()

    @property
    def live(self) -> int:
        """Number of engine requests that have not ended."""
        return len(self._names)

    # -- called by the processor -----------------------------------------------------------

    def engine_ready(self, message: EngineReady) -> None:
        """Keep what the first engine says of itself; all engines run the same model."""
        if not self._ready.done():
            self._ready.set_result(message)

    async def first_ready(self) -> EngineReady:
        """Wait for the first engine, and return what it says of itself."""
        return await asyncio.shield(self._ready)

    def step_outputs(self, message: StepOutputs) -> None:
        """Note the outputs of a step, and pass them on to AsyncLLM. This is the hot path."""
        outputs = self._steps.decode(message.frames)
        apart: list[EngineCoreOutput] = []  # held back, or of requests that have moved or ended
        for output in outputs.outputs:
            live = self._live.get(output.request_id)
            if live is None:
                apart.append(output)
                continue
            if live.unstarted:
                self._started(live, output)
            live.trace.add_output(len(output.new_token_ids))
            live.output.extend(output.new_token_ids)
            if live.prompt is not None:
                live.prompt.output_tokens += len(output.new_token_ids)
            if live.moves:
                output.request_id = live.name
            if output.finish_reason is not None:
                live.trace.ended(str(output.finish_reason))
                self._forget(live)
            scored = output.new_prompt_logprobs_tensors is not None
            if (scored or self.scores.waiting) and self.scores.holds(output):
                apart.append(output)
        if apart:
            removed = set(map(id, apart))
            outputs.outputs = [one for one in outputs.outputs if id(one) not in removed]
        self._put(outputs)

    def _started(self, live: LiveRequest, output: EngineCoreOutput) -> None:
        """Note the first output of a request on its worker."""
        live.unstarted = False
        trace = live.trace
        # An engine that resumes a request computes a prompt that was counted already.
        stats = output.prefill_stats if not live.output else None
        cached = stats.num_cached_tokens if stats is not None else 0
        trace.cached_tokens += cached
        if not trace.first_token_ns and not trace.calls:
            self.begun.append(trace.request_id)
        trace.first_token(*engine_times(output.events))
        self._workers.first_token(live.wire_id, cached)
        if live.moves:
            live.resumed(time.monotonic_ns())

    def prefilled_elsewhere(self, message: PrefilledElsewhere) -> None:
        """Note that a prefill worker computed the prompt of a request."""
        live = self._live.get(message.request_id)
        if live is not None and live.trace.elsewhere is None:
            live.trace.elsewhere = message

    def request_refused(self, message: RequestRefused) -> None:
        """Fail a request that the engine refused or lost, or move it if another may take it."""
        if (live := self._live.get(message.request_id)) is None:
            return
        # The first class whose HTTP status (400, 413, 500, 503) is at least the one of the worker.
        refused = next(
            kind
            for kind in (InvalidRequest, TooLarge, InternalError, Asleep)
            if message.http_status <= kind.http_status
        )
        told = message.message
        if refused is InternalError:
            told += f" (request id {live.trace.api_id})"
        live.refused_by.add(live.worker)
        if refused is Asleep and (live.lost_by | self._workers.ready_workers()) - live.refused_by:
            self._leave([live], MoveReason.ASLEEP, refused(told))
        else:
            self._end(live, refused(told))

    def held_for(self, trace: RequestTrace) -> list[str]:
        """Return AsyncLLM's ids of the engine requests of one API request that have not ended."""
        held = trace.replay.held if trace.replay is not None else []
        return held + [name for name, live in self._names.items() if live.trace is trace]

    def outputs_lost(self, worker: int) -> None:
        """Move all requests of this worker, because tokens of some of them are lost.

        The worker has aborted those that it knew when it lost the outputs. Requests that reached it
        later still run there, so they are aborted from here.
        """
        error = LinkFull(f"worker {worker} could not send its outputs. Send the request again.")
        if lost := self._on(worker):
            self._abort_at(worker, lost)
            self._leave(lost, MoveReason.OUTPUTS_LOST, error)

    def worker_lost(self, worker: int, reason: str) -> Lost:
        """Move all requests of a worker that is gone, and fail the utility calls to it."""
        error = PeerLost(
            f"worker {worker} stopped while it held this request ({reason}). Send it again."
        )
        self.calls.lost(worker, error)
        for live in self._names.values():
            live.refused_by.discard(worker)  # what it has refused, its next life may take
        return self._leave(self._on(worker), move_reason(reason), error)

    def worker_retired(self, worker: int) -> None:
        """Move the requests of a worker that is to be stopped, if another worker takes requests.

        Otherwise they stay there until they end, and so do those that must not move any more.
        """
        leaving = [live for live in self._on(worker) if not self.mover.must_stay(live)]
        if leaving and self._workers.ready_workers():
            error = Unavailable(f"worker {worker} was retired. Send the request again.")
            self._abort_at(worker, leaving)
            self._leave(leaving, MoveReason.DRAINED, error)

    def _on(self, worker: int) -> list[LiveRequest]:
        return [live for live in self._live.values() if live.worker == worker]

    def _leave(self, leaving: list[LiveRequest], reason: MoveReason, error: DynamoError) -> Lost:
        for live in leaving:
            self._leave_worker(live)
        return self.mover.leave(leaving, reason, error)

    def _hurry(self, live: LiveRequest, error: DynamoError) -> None:
        """Move a request whose first token takes too long."""
        live.refused_by.add(live.worker)
        self._abort_at(live.worker, [live])
        self._leave([live], MoveReason.FIRST_TOKEN, error)

    def _give_up(self, live: LiveRequest, error: DynamoError) -> None:
        """Abort a request at its worker, and end it with an error."""
        self._abort_at(live.worker, [live])
        self._end(live, error)

    def _abort_at(self, worker: int, requests: list[LiveRequest]) -> None:
        self._workers.send(worker, AbortRequests([live.wire_id for live in requests]))

    def _leave_worker(self, live: LiveRequest) -> None:
        self._deadlines.end(live)
        if self._live.pop(live.wire_id, None) is not None:
            self._workers.ended(live.wire_id)

    def _end(self, live: LiveRequest, error: DynamoError) -> None:
        """End a request with an error."""
        if live.name in self._names:
            live.trace.failure = error
            live.trace.error = error.code if isinstance(error, PeerLost) else live.trace.error
            self._forget(live)
            self.fail(live.name, RequestFailed(error))

    def _forget(self, live: LiveRequest) -> None:
        self._leave_worker(live)
        self._names.pop(live.name, None)
        self.mover.ended(live)

    # -- called by AsyncLLM ----------------------------------------------------------------

    async def add_request_async(self, request: EngineCoreRequest) -> None:
        """Have a worker chosen for an engine request, and send it there."""
        trace = current_trace.get()
        trace.prepared()
        if trace.replay is not None and trace.replay.takes(request):
            return
        prepared_ns = time.monotonic_ns()
        request_id = request.request_id
        tokens = take_tokens(request)
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
        family = family_of(request)
        prompt = trace.prompts.get(family)
        live = LiveRequest(request_id, request, tokens, trace, prompt, family, request.priority)
        trace.outputs[family].append(live.output)
        if trace.replay is not None:
            live.output.extend(trace.replay.output_of(request_id))
            if prompt is not None:
                prompt.output_tokens += len(live.output)
        # Workers treat requests with the same external id as the n answers to one prompt, but a
        # client may use an id twice. So the external id gets the frontend's key, which is unique.
        request.external_req_id = f"{trace.request_id}/{family}"
        trace.sent(prepared_ns, routed_ns)
        self._names[request_id] = live
        self._send(live, answer)

    def _send(self, live: LiveRequest, chosen: ChosenWorker) -> None:
        """Send a request to the worker that was chosen for it."""
        request = live.request
        live.worker = chosen.worker
        if live.name not in self._names:  # it ended while a worker was being chosen
            self._workers.ended(live.wire_id)
            return
        request.request_id, request.priority = live.wire_id, chosen.engine_order
        self._live[live.wire_id] = live
        message = AddRequest(
            live.wire_id,
            live.tokens,
            [bytes(frame) for frame in self._encoder.encode(request)],
            chosen.prefill_worker,
            live.trace.worker is not None,
            live.output.tobytes(),
        )
        try:
            if not self._workers.send(chosen.worker, message):
                why = f"worker {chosen.worker} cannot take the request. Send it again."
                raise Unavailable(why)
        except (TooLarge, Unavailable) as error:
            self._end(live, error)
            return
        if self._deadlines.timeout_s:
            self._deadlines.begin(live)

    async def _place(
        self, trace: RequestTrace, request: EngineCoreRequest, tokens: bytes
    ) -> ChosenWorker:
        """Return the router's choice for the first of a family; its siblings go to that worker."""
        request_id, prompt_tokens = request.request_id, len(tokens) // hashes.TOKEN_BYTES
        family = family_of(request)
        first = trace.placed.get(family)
        if first is not None and first.worker in self._workers.ready_workers():
            self._workers.follow(request_id, first.worker, prompt_tokens)
            return ChosenWorker(first.worker, 0, None, first.engine_order)
        if trace.worker is not None:
            self._workers.follow(request_id, trace.worker, prompt_tokens)
            answer = ChosenWorker(trace.worker, 0, None, request.priority)
        else:
            answer = await self.mover.place(self._queries.of_new(trace, request, tokens))
            trace.overlap_blocks = answer.overlap_blocks
        trace.placed[family] = answer
        trace.prompt_tokens += prompt_tokens
        return answer

    async def get_output_async(self) -> EngineCoreOutputs:
        """Wait for the outputs of the next step of any worker."""
        return await self._outputs.get()

    async def abort_requests_async(self, request_ids: list[str]) -> None:
        """Tell the workers of these requests to stop them."""
        by_worker: dict[int, list[str]] = {}
        for request_id in request_ids:
            if (live := self._names.get(request_id)) is not None:
                # It has met a stop string, or its client has left and nobody will ask why it ended.
                live.trace.ended(STOPPED)
                if live.wire_id in self._live:
                    by_worker.setdefault(live.worker, []).append(live.wire_id)
                self._forget(live)
        for worker, ids in by_worker.items():
            self._workers.send(worker, AbortRequests(ids))

    async def get_supported_tasks_async(self) -> tuple[str, ...]:
        """Wait for the first engine, and return what the model can do, in vLLM's words."""
        return tuple((await self.first_ready()).tasks)

    async def reset_mm_cache_async(self) -> None:
        """Have all workers empty their multimodal caches."""
        await self.calls.of_all("reset_mm_cache")

    async def add_lora_async(self, lora_request: LoRARequest) -> bool:
        """Have all workers load an adapter; True if each of them has it."""
        await self.first_ready()
        return all(await self.calls.of_all("add_lora", lora_request))

    def dp_engines_running(self) -> bool:
        """Return False: engines have no data-parallel groups here."""
        return False

    def shutdown(self, timeout: float | None = None) -> None:
        """Do nothing: the supervisor owns the workers."""
