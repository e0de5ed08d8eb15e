"""vLLM's own serving classes over `RoutedClient`: from a request's body to its answer."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator, Callable
from contextvars import copy_context
from functools import partial
from typing import Any

import msgspec
import orjson
from starlette.datastructures import State
from starlette.responses import Response
from vllm import envs
from vllm.entrypoints.launchers.api_server.app_state import init_app_state
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.core_client import EngineCoreClient
from vllm.v1.executor import Executor

from dynamo_cli.config import EngineConfig, MigrationRule
from dynamo_cli.engines.vllm import refusals, versions
from dynamo_cli.engines.vllm.core import adapter_keys
from dynamo_cli.engines.vllm.front import (
    adapters,
    anthropic,
    direct,
    discretion,
    echoes,
    failures,
    gate,
    identity,
    inline,
    message_requests,
    message_stream,
    openapi,
    rendering,
    responses,
    resume,
    sampling,
    scored,
    tokenizing,
    whole,
)
from dynamo_cli.engines.vllm.front.bodies import ROUTES, request_of
from dynamo_cli.engines.vllm.front.client import DEFAULT_RULE, RoutedClient
from dynamo_cli.engines.vllm.front.direct import Direct
from dynamo_cli.engines.vllm.front.failures import (
    JSON,
    failure_of,
    raise_error,
)
from dynamo_cli.engines.vllm.front.lanes import Lanes
from dynamo_cli.engines.vllm.front.outgoing import Outgoing, Tell
from dynamo_cli.engines.vllm.front.replies import (
    finish_of,
    raw_request,
    reply_in_thread,
    reply_of,
)
from dynamo_cli.engines.vllm.front.resume import StreamReplay
from dynamo_cli.engines.vllm.front.trace import RequestTrace, current_trace
from dynamo_cli.engines.vllm.front.turns import Groups
from dynamo_cli.engines.vllm.front.workers import Workers
from dynamo_cli.engines.vllm.options import arguments
from dynamo_cli.errors import DynamoError, ModelError, NotFound
from dynamo_cli.host import vital
from dynamo_cli.messages.admin import LoadAdapter, UnloadAdapter
from dynamo_cli.messages.request import (
    Ask,
    Chunks,
    Endpoint,
    ForProcessor,
    Head,
    Question,
    Reply,
    Submit,
    SubmitProbe,
)

SSE = "text/event-stream"
IN_GROUPS = (Endpoint.CHAT, Endpoint.COMPLETIONS, Endpoint.MESSAGES)
"""Endpoints whose short requests are prepared in groups."""

WITHOUT_ENGINE = (Endpoint.TOKENIZE, Endpoint.DETOKENIZE, Endpoint.COUNT_TOKENS)
"""Endpoints that only need the tokenizer."""


class Serving:
    """The API of one model, without HTTP.

    Args:
        config: the engine that the workers run; only its front half is built here.
        workers: links and routing.
        kv_routing: whether the router needs the block hashes of each prompt.
        debug_headers: whether answers name their worker in headers.
        log_prompts: whether the log may contain text of requests.
        record: whether answers carry lengths and hashes of their prompts, for a recorded trace.
        rule: how requests move to another worker when theirs is lost.

    Attributes:
        client: the engine client of vLLM; the owner gives it the messages of workers.

    Raises:
        ModelError, ResourceError, StartError, UsageError: the model or an option cannot be used.
    """

    def __init__(
        self,
        config: EngineConfig,
        workers: Workers,
        *,
        kv_routing: bool = False,
        debug_headers: bool = False,
        log_prompts: bool = False,
        record: bool = False,
        rule: MigrationRule = DEFAULT_RULE,
    ) -> None:
        failures.install()  # first: it looks at the exception, which the next one removes
        if not log_prompts:
            discretion.install()
        self._debug_headers = debug_headers
        self._model = config.model
        self.client = RoutedClient(workers, kv_routing=kv_routing, record=record, rule=rule)
        self.client.fail = self._fail
        self._lanes = Lanes()
        with refusals.named(config.model):
            self._args: argparse.Namespace = arguments.parse(config)
            arguments.check_parsers(self._args)
            vllm_config = arguments.engine_config(self._args, config)
            self._llm = _build_llm(vllm_config, self.client)
        self._memory = tokenizing.memory_of(self._llm.renderer.tokenizer)
        inline.install(self._llm, self._lanes, self._memory)
        self.client.scores.states = self._llm.output_processor.request_states
        assert self._llm.output_handler is not None
        vital.watch(self._llm.output_handler, endless=True)
        self._state = State()
        self._groups = Groups()
        self._traces: set[RequestTrace] = set()
        self._description: asyncio.Future[bytes] | None = None
        self._limits = gate.ModelLimits()
        # Multimodal inputs are downloaded during the preparation, which may take long.
        self._text_only = not self._llm.model_config.is_multimodal_model

    async def start(self) -> None:
        """Wait for the first engine, then create vLLM's serving objects, which depend on it.

        Raises:
            ModelError: the model can neither generate text nor embed it.
        """
        ready = await self.client.first_ready()
        self._llm.model_config.max_model_len = ready.max_model_len
        side = getattr(self._llm.renderer.tokenizer, "truncation_side", "right")
        self._limits = gate.ModelLimits(ready.max_model_len, side)
        if not {"generate", "embed"} & set(ready.tasks):
            raise ModelError(
                f"the model can do {', '.join(ready.tasks)}; "
                "only text generation and embeddings are served."
            )
        with refusals.named(self._model):
            await init_app_state(self._llm, self._state, self._args, tuple(ready.tasks))
        chats = getattr(self._state, "openai_serving_chat", None)
        completions = getattr(self._state, "openai_serving_completion", None)
        sampling.install()
        messages = getattr(self._state, anthropic.HANDLER, None)
        rendering.install(self._llm, (chats, messages), completions, self._memory)
        if completions is not None:
            echoes.install(completions, self._lanes.answers)
        if messages is not None:
            anthropic.install(messages)
        if (answers := getattr(self._state, "openai_serving_responses", None)) is not None:
            responses.install(answers)
        if versions.release() in versions.SHORT_WAYS:
            direct.install(self._llm, chats, completions)
            message_requests.install(messages)
            message_stream.install(self._llm, messages)
            whole.install(chats, completions, messages)
        envs.enable_envs_cache()

    def _fail(self, request_id: str, error: Exception) -> None:
        """End a request inside AsyncLLM with an exception instead of its next output."""
        processor = self._llm.output_processor
        state = processor.request_states.get(request_id)
        if state is None:
            return
        if state.queue is not None:
            state.queue.put(error)  # first: what the abort puts there is ignored then
        processor.abort_requests([request_id], internal=True)

    @property
    def preparing(self) -> int:
        """Number of requests whose template, tokenizer and checks are not done."""
        return sum(bool(trace.path) and not trace.is_prepared for trace in self._traces)

    async def handle(self, request: ForProcessor, tell: Tell) -> None:
        """Answer one request with `Reply`, or `Head`, `Chunk` ... `Finish`, whatever happens.

        Cancelling it aborts the request in its engine.

        Args:
            tell: is given the messages, also while this does not run.
        """
        worker = None
        if isinstance(request, SubmitProbe):
            worker, request = request.worker, self._smallest(request)
        trace = _trace_of(request, worker)
        current_trace.set(trace)
        if isinstance(request, Submit) and request.resume is not None:
            place, processor = self.client.add_request_async, self._llm.output_processor
            trace.replay = StreamReplay(request.resume, trace, processor, place)
        self._traces.add(trace)
        try:
            if trace.in_place and self._text_only and trace.path in IN_GROUPS:
                await self._groups.begin(trace)
            await self._handle(request, trace, tell)
        finally:
            trace.prepared()
            self._traces.discard(trace)

    async def _handle(self, request: ForProcessor, trace: RequestTrace, tell: Tell) -> None:
        out = Outgoing(trace, tell, self._head)
        # Whatever is raised, and whenever, becomes the end of the answer.
        try:
            answer = await self._answer(request, trace)
            if isinstance(answer, Direct):
                answer = await answer.run(out)
            elif not hasattr(answer, "__aiter__"):
                tell(self._signed(await reply_of(trace, answer), trace))
                return
            if answer is not None:
                await self._stream(answer, trace, out)
        except Exception as error:  # noqa: BLE001
            failure = failure_of(error, trace)
            await self._abandon(trace)
            if not out.begun:
                tell(self._signed(failure.reply(trace), trace))
                return
            trace.error = trace.error or failure.kind
            tell(failure.end(trace))
        tell(finish_of(trace))

    @staticmethod
    async def _stream(events: AsyncIterator[str], trace: RequestTrace, out: Outgoing) -> None:
        """Send the events of one of vLLM's classes."""
        replay = trace.replay
        async for text in events:
            raise_error(text)
            if replay is None or not replay.has(text):
                out.event(text.encode())
        if replay is not None:
            replay.ended()
        out.open()

    def last_words(self, request: ForProcessor, error: Exception) -> tuple[Reply, Chunks]:
        """Return the messages that end an answer with an error, whether it has begun or not.

        If it has not, the first message is the whole answer, and the frontend ignores the other.
        """
        trace = _trace_of(request)
        trace.failure = error if isinstance(error, DynamoError) else None
        failure = failure_of(error, trace)
        trace.error = failure.kind
        return failure.reply(trace), Chunks([failure.end(trace)], finish_of(trace))

    async def _abandon(self, trace: RequestTrace) -> None:
        """Abort the engine requests of a failed API request that have not ended."""
        if left := self.client.held_for(trace):
            await self._llm.abort(left, internal=True)

    def _head(self, trace: RequestTrace) -> Head:
        return Head(trace.request_id, 200, SSE, self._headers(trace), trace.served_by)

    def _signed(self, reply: Reply, trace: RequestTrace) -> Reply:
        """Return a whole answer, completed with usage, times, moves and the like from the trace."""
        return msgspec.structs.replace(
            reply,
            usage=trace.usage(),
            error=trace.error or reply.error,
            headers=reply.headers + self._headers(trace),
            worker=trace.served_by,
            finish_reason=trace.finish_reason,
            timeline=trace.timeline(),
            prompts=trace.recorded(),
            moves=tuple(trace.moves),
        )

    def _headers(self, trace: RequestTrace) -> tuple[tuple[str, str], ...]:
        """Return the headers of --debug-headers: the workers and the predicted overlap."""
        if not self._debug_headers or not trace.placed:
            return ()
        workers = ",".join(map(str, sorted({one.worker for one in trace.placed.values()})))
        return (
            ("X-Dynamo-Worker", workers),
            ("X-Dynamo-Overlap-Blocks", str(trace.overlap_blocks)),
        )

    async def _answer(self, request: ForProcessor, trace: RequestTrace) -> Any:
        match request:
            case Submit():
                return await self._ask_model(request, trace)
            case Ask(question=question):
                return await self._tell(question)
            case LoadAdapter() | UnloadAdapter():
                models = self._state.openai_serving_models
                return await adapters.change(self._llm, models, request)
        raise AssertionError(request)

    async def _ask_model(self, submit: Submit, trace: RequestTrace) -> Any:
        endpoint, body = submit.endpoint, submit.body
        route = ROUTES[endpoint]
        handler = getattr(self._state, route.handler, None)
        if handler is None:
            raise NotFound(f"the model does not support {endpoint}.")
        method = getattr(handler, route.method)
        if trace.in_place:
            request = request_of(endpoint, body, self._limits)
        else:
            request = await self._in_lane(request_of, endpoint, body, self._limits)
            if endpoint in WITHOUT_ENGINE and self._text_only:
                make = partial(method, request, raw_request(submit))
                return await self._in_lane(reply_in_thread, make, trace)
        answer = await method(request, raw_request(submit))
        if isinstance(answer, scored.UnmadeAnswer):
            work = partial(copy_context().run, reply_in_thread, answer.make, trace)
            return await asyncio.wrap_future(self._lanes.answers.submit(trace, work))
        if isinstance(answer, Direct) or not hasattr(answer, "__aiter__"):
            return answer
        match endpoint:
            case Endpoint.RESPONSES:
                return responses.events(answer, trace, self._lanes.answers)
            case Endpoint.MESSAGES:
                return anthropic.events(answer, trace)
        return answer

    async def _in_lane(self, work: Callable[..., Any], *args: Any) -> Any:
        """Run blocking work in a thread, so that streams go on meanwhile."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._lanes, copy_context().run, work, *args)

    async def _tell(self, question: Question) -> Any:
        """Return the list of models, or the OpenAPI description of the endpoints."""
        if question is Question.MODELS:
            return await self._state.openai_serving_models.show_available_models()
        if self._description is None:
            # It takes a second to compute, and never changes.
            self._description = asyncio.ensure_future(asyncio.to_thread(self._describe))
        return Response(await asyncio.shield(self._description), media_type=JSON)

    def _describe(self) -> bytes:
        served = {
            endpoint: route.request
            for endpoint, route in ROUTES.items()
            if getattr(self._state, route.handler, None) is not None
        }
        return orjson.dumps(openapi.document(served))

    def _smallest(self, probe: SubmitProbe) -> Submit:
        """Return the smallest request that the engine must run: one token in, one token out."""
        endpoint, body = Endpoint.EMBEDDINGS, orjson.dumps({"input": [1]})
        if getattr(self._state, "openai_serving_completion", None) is not None:
            content = {"prompt": [1], "max_tokens": 1, "min_tokens": 1, "temperature": 0}
            endpoint, body = Endpoint.COMPLETIONS, orjson.dumps(content)
        return Submit(probe.request_id, probe.api_id, endpoint, body, [])


def _trace_of(request: ForProcessor, worker: int | None = None) -> RequestTrace:
    if not isinstance(request, Submit):
        return RequestTrace(request.request_id, request.api_id)
    return RequestTrace(
        request.request_id,
        request.api_id,
        path=request.endpoint,
        worker=worker,
        in_place=inline.is_short(request.body),
        body_bytes=len(request.body),
        seed=request.seed,
        created_s=request.created_s,
    )


def _build_llm(vllm_config: Any, client: RoutedClient) -> AsyncLLM:
    # This is the only place where vLLM chooses its engine client.
    EngineCoreClient.make_async_mp_client = staticmethod(lambda **_: client)
    # Each lane needs a tokenizer of its own, as each of vLLM's own threads would.
    model = vllm_config.model_config
    model.renderer_num_workers = max(model.renderer_num_workers, Lanes.COUNT)
    llm = AsyncLLM(
        vllm_config=vllm_config, executor_class=Executor, log_stats=False, log_requests=False
    )
    adapter_keys.install()
    identity.install()
    resume.install(llm)
    scored.install(llm)
    return llm
