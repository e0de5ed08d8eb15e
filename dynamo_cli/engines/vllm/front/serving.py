"""vLLM's own OpenAI serving classes over `RoutedClient`: a request body in, answers out."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextvars import copy_context
from typing import Any

import msgspec
import orjson
from starlette.datastructures import State
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from vllm.entrypoints.launchers.api_server.app_state import init_app_state
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.core_client import EngineCoreClient
from vllm.v1.executor import Executor

from dynamo_cli import shapes
from dynamo_cli.config import EngineConfig
from dynamo_cli.engines.vllm import refusals
from dynamo_cli.engines.vllm.front import (
    adapters,
    anthropic,
    discretion,
    gate,
    inline,
    openapi,
    responses,
)
from dynamo_cli.engines.vllm.front.bodies import ROUTES, request_of
from dynamo_cli.engines.vllm.front.client import RoutedClient, Workers
from dynamo_cli.engines.vllm.front.failures import (
    JSON,
    failure_of,
    raise_error,
    raise_response,
)
from dynamo_cli.engines.vllm.front.lanes import Lanes
from dynamo_cli.engines.vllm.front.one_at_a_time import OneAtATime
from dynamo_cli.engines.vllm.front.trace import RequestTrace, current_trace
from dynamo_cli.engines.vllm.options import arguments
from dynamo_cli.errors import DynamoError, ModelError, NotFound
from dynamo_cli.host import vital
from dynamo_cli.messages.admin import LoadAdapter, UnloadAdapter
from dynamo_cli.messages.request import (
    Ask,
    Chunk,
    Chunks,
    Endpoint,
    Finish,
    ForProcessor,
    Head,
    Question,
    Reply,
    Submit,
    SubmitProbe,
)

SSE = "text/event-stream"
ONE_AT_A_TIME = (Endpoint.CHAT, Endpoint.COMPLETIONS, Endpoint.MESSAGES)
WITHOUT_ENGINE = (Endpoint.TOKENIZE, Endpoint.DETOKENIZE, Endpoint.COUNT_TOKENS)
_VLLM_HEADERS = {"x-priority": "x-vllm-priority"}


class Serving:
    """The OpenAI API of one model, without HTTP.

    Args:
        config: the engine that the workers run; only its front half is built here.
        workers: links and routing.
        kv_routing: the router wants to know the blocks of each prompt.
        debug_headers: answers say which worker gave them.
        log_prompts: the log may have text of requests in it.
        record: and what their prompts were, in lengths and hashes.

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
    ) -> None:
        if not log_prompts:
            discretion.install()
        self._debug_headers = debug_headers
        self._model = config.model
        self.client = RoutedClient(workers, kv_routing=kv_routing, record=record)
        self.client.fail = self._fail
        self._lanes = Lanes()
        with refusals.named(config.model):
            self._args: argparse.Namespace = arguments.parse(config)
            arguments.check_parsers(self._args)
            vllm_config = arguments.engine_config(self._args, config)
            self._llm = _build_llm(vllm_config, self.client, self._lanes)
        assert self._llm.output_handler is not None
        vital.watch(self._llm.output_handler, endless=True)
        self._state = State()
        self._one_at_a_time = OneAtATime()
        self._description: asyncio.Future[bytes] | None = None
        self._limits = gate.Limits()
        # Otherwise images are downloaded in the middle of the preparation, which may take long.
        self._text_only = not self._llm.model_config.is_multimodal_model

    async def start(self) -> None:
        """Wait for the first engine, then set up what depends on it."""
        ready = await self.client.first_ready()
        self._llm.model_config.max_model_len = ready.max_model_len
        side = getattr(self._llm.renderer.tokenizer, "truncation_side", "right")
        self._limits = gate.Limits(ready.max_model_len, side)
        if not {"generate", "embed"} & set(ready.tasks):
            raise ModelError(
                f"the model can do {', '.join(ready.tasks)}; "
                "only text generation and embeddings are served."
            )
        with refusals.named(self._model):
            await init_app_state(self._llm, self._state, self._args, tuple(ready.tasks))
        if (messages := getattr(self._state, anthropic.HANDLER, None)) is not None:
            anthropic.install(messages)

    def _fail(self, request_id: str, error: Exception) -> None:
        """End a request inside AsyncLLM with an exception in place of its next output."""
        processor = self._llm.output_processor
        state = processor.request_states.get(request_id)
        if state is None:
            return
        processor.abort_requests([request_id], internal=True)
        if state.queue is not None:
            state.queue.put(error)

    async def handle(self, request: ForProcessor) -> AsyncIterator[Reply | Head | Chunk | Finish]:
        """Answer one request: one `Reply`, or `Head`, `Chunk` ... `Finish`, whatever happens.

        Cancelling the iteration aborts the request in its engine.
        """
        worker = None
        if isinstance(request, SubmitProbe):
            worker, request = request.worker, self._smallest(request)
        trace = _trace_of(request, worker)
        current_trace.set(trace)
        if trace.in_place and self._text_only and trace.path in ONE_AT_A_TIME:
            await self._one_at_a_time.begin(trace)
        try:
            async for message in self._handle(request, trace):
                yield message
        finally:
            trace.prepared()

    async def _handle(
        self, request: ForProcessor, trace: RequestTrace
    ) -> AsyncIterator[Reply | Head | Chunk | Finish]:
        begun = False
        # Everything that is raised, at whatever point, becomes the end of the answer.
        try:
            answer = await self._answer(request, trace)
            if not hasattr(answer, "__aiter__"):
                yield self._signed(await _reply(trace, answer), trace)
                return
            async for text in answer:
                raise_error(text)
                if not begun:
                    # Not before there is something to say: the engine comes first.
                    yield self._head(trace)
                    begun = True
                yield Chunk(trace.request_id, text.encode(), trace.take_new_tokens())
            if not begun:
                yield self._head(trace)
        except Exception as error:  # noqa: BLE001
            failure = failure_of(error, trace)
            await self._abandon(trace)
            if not begun:
                yield self._signed(failure.reply(trace), trace)
                return
            trace.error = trace.error or failure.kind
            yield failure.end(trace)
        yield _finish(trace)

    def last_words(self, request: ForProcessor, error: Exception) -> tuple[Reply, Chunks, Finish]:
        """An end for a request of which nobody knows how far its answer has come.

        If it had not begun, the first is the answer, and nobody looks at the others.
        """
        trace = _trace_of(request)
        trace.failure = error if isinstance(error, DynamoError) else None
        failure = failure_of(error, trace)
        trace.error = failure.kind
        return (
            failure.reply(trace),
            Chunks([failure.end(trace)]),
            _finish(trace),
        )

    async def _abandon(self, trace: RequestTrace) -> None:
        """Let engines forget what they still do for a request that failed."""
        if left := self.client.held_for(trace):
            await self._llm.abort(left, internal=True)

    def _head(self, trace: RequestTrace) -> Head:
        return Head(trace.request_id, 200, SSE, self._headers(trace), trace.served_by)

    def _signed(self, reply: Reply, trace: RequestTrace) -> Reply:
        """A whole answer, with what its request was and did."""
        return msgspec.structs.replace(
            reply,
            usage=trace.usage(),
            error=trace.error or reply.error,
            headers=reply.headers + self._headers(trace),
            worker=trace.served_by,
            finish_reason=trace.finish_reason,
            timeline=trace.timeline(),
            prompts=trace.recorded(),
        )

    def _headers(self, trace: RequestTrace) -> tuple[tuple[str, str], ...]:
        """Where the answer comes from, for who wants to know."""
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
                return await self._in_lane(_whole_reply, method, request, submit, trace)
        answer = await method(request, _raw_request(submit))
        if not hasattr(answer, "__aiter__"):
            return answer
        match endpoint:
            case Endpoint.RESPONSES:
                return responses.events(answer, trace)
            case Endpoint.MESSAGES:
                return anthropic.events(answer, trace)
        return answer

    async def _in_lane(self, work: Callable[..., Any], *args: Any) -> Any:
        """In a thread, beside the streams."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._lanes, copy_context().run, work, *args)

    async def _tell(self, question: Question) -> Any:
        """Which models there are, or what they can be asked."""
        if question is Question.MODELS:
            return await self._state.openai_serving_models.show_available_models()
        if self._description is None:
            # It takes a second, and is always the same.
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
        """The smallest request that goes the whole way: one token in, one out."""
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
    )


def _whole_reply(
    method: Callable[..., Awaitable[Any]], request: Any, submit: Submit, trace: RequestTrace
) -> Reply:
    """The answer to a request that needs no engine, made in this thread."""

    async def answer() -> Reply:
        return await _reply(trace, await method(request, _raw_request(submit)))

    reply: Reply = inline.run(answer())
    return reply


def _build_llm(vllm_config: Any, client: RoutedClient, lanes: Lanes) -> AsyncLLM:
    # The one place where vLLM chooses its engine client.
    EngineCoreClient.make_async_mp_client = staticmethod(lambda **_: client)
    # As many tokenizers as lanes, which vLLM's own threads would need too.
    model = vllm_config.model_config
    model.renderer_num_workers = max(model.renderer_num_workers, Lanes.COUNT)
    llm = AsyncLLM(
        vllm_config=vllm_config, executor_class=Executor, log_stats=False, log_requests=False
    )
    inline.install(llm, lanes)
    return llm


def _raw_request(submit: Submit) -> Request:
    """The HTTP request as vLLM's classes want it: they read headers and leave notes in `state`."""
    headers = [
        (_VLLM_HEADERS.get(name, name).encode("latin-1"), value.encode("latin-1"))
        for name, value in submit.headers
    ]
    return Request({"type": "http", "headers": headers, "method": "POST", "path": submit.endpoint})


async def _reply(trace: RequestTrace, answer: Any) -> Reply:
    """A whole answer.

    Raises:
        EventError: it is an error.
    """
    if isinstance(answer, Reply):
        return answer
    raise_response(answer)
    if not isinstance(answer, Response):
        brief = trace.path in shapes.ANTHROPIC  # its fields are there or not, never null
        body = answer.model_dump_json(by_alias=True, exclude_none=brief).encode()
        return Reply(trace.request_id, 200, JSON, body)
    if isinstance(answer, StreamingResponse):  # embeddings as bytes, which are all there already
        body = b"".join([_bytes(part) async for part in answer.body_iterator])
    else:
        body = bytes(answer.body)
    own = dict(answer.headers)
    content_type = own.pop("content-type", JSON)
    own.pop("content-length", None)
    return Reply(
        trace.request_id, answer.status_code, content_type, body, headers=tuple(own.items())
    )


def _bytes(part: Any) -> bytes:
    return part.encode() if isinstance(part, str) else bytes(part)


def _finish(trace: RequestTrace) -> Finish:
    return Finish(
        trace.request_id,
        trace.usage(),
        trace.error,
        trace.served_by,
        trace.finish_reason,
        trace.timeline(),
        trace.recorded(),
    )
