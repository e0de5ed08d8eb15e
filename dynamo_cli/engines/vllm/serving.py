"""vLLM's own OpenAI serving classes over `RoutedClient`: a request body in, answers out."""

from __future__ import annotations

import argparse
import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import msgspec
import orjson
from pydantic import TypeAdapter, ValidationError
from starlette.datastructures import State
from starlette.requests import Request
from starlette.responses import Response
from vllm.entrypoints.launchers.api_server.app_state import init_app_state
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.openai.responses.protocol import ResponsesRequest
from vllm.entrypoints.pooling.embed.protocol import EmbeddingRequest
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.entrypoints.serve.exception_handling.error_response import create_error_response
from vllm.entrypoints.serve.tokenize.protocol import DetokenizeRequest, TokenizeRequest
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.core_client import EngineCoreClient
from vllm.v1.executor import Executor

from dynamo_cli.config import EngineConfig
from dynamo_cli.engines.vllm import (
    adapters,
    anthropic,
    arguments,
    discretion,
    gate,
    inline,
    openapi,
    refusals,
)
from dynamo_cli.engines.vllm.client import RequestFailed, RoutedClient, Workers
from dynamo_cli.engines.vllm.trace import RequestTrace, current_trace
from dynamo_cli.engines.vllm.turns import Turns
from dynamo_cli.errors import DynamoError, InternalError, InvalidRequest, ModelError, NotFound
from dynamo_cli.messages import Chunk, Endpoint, Finish, Head, Reply, Submit

JSON = "application/json"
SSE = "text/event-stream"
IN_TURNS = (Endpoint.CHAT, Endpoint.COMPLETIONS, Endpoint.MESSAGES)
ERROR_EVENTS = ('data: {"error"', anthropic.ERROR_EVENT)
_VLLM_HEADERS = {"x-priority": "x-vllm-priority"}

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Route:
    """Where vLLM handles an endpoint.

    Attributes:
        request: the body's model.
        handler: name of the serving object in vLLM's application state.
        method: of the handler; empty when the handler itself is called.
    """

    request: TypeAdapter[Any]
    handler: str
    method: str


_ROUTES: dict[Endpoint, _Route] = {
    Endpoint.CHAT: _Route(
        TypeAdapter(ChatCompletionRequest), "openai_serving_chat", "create_chat_completion"
    ),
    Endpoint.COMPLETIONS: _Route(
        TypeAdapter(CompletionRequest), "openai_serving_completion", "create_completion"
    ),
    Endpoint.RESPONSES: _Route(
        TypeAdapter(ResponsesRequest), "openai_serving_responses", "create_responses"
    ),
    Endpoint.MESSAGES: _Route(anthropic.MESSAGES, anthropic.HANDLER, "create_messages"),
    Endpoint.COUNT_TOKENS: _Route(anthropic.COUNT_TOKENS, anthropic.HANDLER, "count_tokens"),
    Endpoint.EMBEDDINGS: _Route(TypeAdapter(EmbeddingRequest), "serving_embedding", "__call__"),
    Endpoint.TOKENIZE: _Route(
        TypeAdapter(TokenizeRequest), "serving_tokenization", "create_tokenize"
    ),
    Endpoint.DETOKENIZE: _Route(
        TypeAdapter(DetokenizeRequest), "serving_tokenization", "create_detokenize"
    ),
}


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
        with refusals.named(config.model):
            self._args: argparse.Namespace = arguments.parse(config)
            arguments.check_parsers(self._args)
            self._llm = _build_llm(arguments.engine_config(self._args, config), self.client)
        self._state = State()
        self._turns = Turns()
        self._description: asyncio.Future[bytes] | None = None
        # Images and the like are fetched from elsewhere in the middle of the preparation.
        self._in_turns = not self._llm.model_config.is_multimodal_model

    async def start(self) -> None:
        """Wait for the first engine, then set up what depends on it."""
        ready = await self.client.first_ready()
        self._llm.model_config.max_model_len = ready.max_model_len
        if not {"generate", "embed"} & set(ready.tasks):
            raise ModelError(
                f"the model can do {', '.join(ready.tasks)}; "
                "only text generation and embeddings are served."
            )
        with refusals.named(self._model):
            await init_app_state(self._llm, self._state, self._args, tuple(ready.tasks))

    def _fail(self, request_id: str, error: Exception) -> None:
        """End a request inside AsyncLLM with an exception in place of its next output."""
        processor = self._llm.output_processor
        state = processor.request_states.get(request_id)
        if state is None:
            return
        processor.abort_requests([request_id], internal=True)
        if state.queue is not None:
            state.queue.put(error)

    async def handle(self, submit: Submit) -> AsyncIterator[Reply | Head | Chunk | Finish]:
        """Answer one request: one `Reply`, or `Head`, `Chunk` ... `Finish`.

        Cancelling the iteration aborts the request in its engine.
        """
        short = inline.is_short(submit.body)
        trace = RequestTrace(submit.request_id, submit.worker, short=short, api_id=submit.api_id)
        current_trace.set(trace)
        if trace.short and self._in_turns and submit.endpoint in IN_TURNS:
            await self._turns.take(trace)
        try:
            async for message in self._handle(submit, trace):
                if isinstance(message, Reply):
                    message = anthropic.shaped(submit.endpoint, message)  # noqa: PLW2901
                yield message
        finally:
            trace.prepared()

    async def _handle(
        self, submit: Submit, trace: RequestTrace
    ) -> AsyncIterator[Reply | Head | Chunk | Finish]:
        try:
            answer = await self._answer(submit, trace)
        # Everything that vLLM raises becomes an answer of its own shape and status.
        except Exception as error:  # noqa: BLE001
            yield self._signed(_failure(submit, error), trace)
            return
        if not hasattr(answer, "__aiter__"):
            yield self._signed(_reply(submit, answer), trace)
            return
        # Not before there is something to say: the engine comes first.
        head: Head | None = Head(submit.request_id, 200, SSE)
        async for text in answer:
            if head is not None:
                if text.startswith(ERROR_EVENTS):  # it can still have its own status
                    yield self._signed(_refusal(submit, text, trace), trace)
                    return
                yield msgspec.structs.replace(
                    head, headers=self._headers(trace), worker=trace.served_by
                )
                head = None
            yield Chunk(submit.request_id, text.encode(), trace.take_new_tokens())
        if head is not None:
            yield head
        yield Finish(
            submit.request_id,
            trace.usage(),
            trace.error,
            trace.served_by,
            trace.finish_reason,
            trace.timeline(),
            trace.recorded(),
        )

    def _signed(self, reply: Reply, trace: RequestTrace) -> Reply:
        """A whole answer, with what its request was and did."""
        return msgspec.structs.replace(
            reply,
            usage=trace.usage(),
            error=trace.error or reply.error,
            headers=self._headers(trace),
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

    async def _answer(self, submit: Submit, trace: RequestTrace) -> Any:
        if submit.endpoint in (Endpoint.MODELS, Endpoint.OPENAPI):
            return await self._tell(submit.endpoint)
        if submit.endpoint in adapters.ENDPOINTS:
            models = self._state.openai_serving_models
            return await adapters.change(self._llm, models, submit.endpoint, submit.body)
        endpoint, body = self._probe() if submit.probe else (submit.endpoint, submit.body)
        route = _ROUTES[endpoint]
        handler = getattr(self._state, route.handler, None)
        if handler is None:
            raise NotFound(f"the model does not support {endpoint}.")
        request = _validated(route, endpoint, body)
        answer = await getattr(handler, route.method)(request, _raw_request(submit))
        if not hasattr(answer, "__aiter__"):
            return answer
        match endpoint:
            case Endpoint.RESPONSES:
                return _response_events(answer)
            case Endpoint.MESSAGES:
                return anthropic.events(answer, trace)
        return answer

    async def _tell(self, endpoint: Endpoint) -> Any:
        """Which models there are, or what they can be asked."""
        if endpoint is Endpoint.MODELS:
            return await self._state.openai_serving_models.show_available_models()
        if self._description is None:
            # It takes a second, and is always the same.
            self._description = asyncio.ensure_future(asyncio.to_thread(self._describe))
        return Response(await asyncio.shield(self._description), media_type=JSON)

    def _describe(self) -> bytes:
        served = {
            endpoint: route.request
            for endpoint, route in _ROUTES.items()
            if getattr(self._state, route.handler, None) is not None
        }
        return orjson.dumps(openapi.document(served))

    def _probe(self) -> tuple[Endpoint, bytes]:
        """The smallest request that goes the whole way: one token in, one out."""
        if getattr(self._state, "openai_serving_completion", None) is not None:
            body = {"prompt": [1], "max_tokens": 1, "min_tokens": 1, "temperature": 0}
            return Endpoint.COMPLETIONS, orjson.dumps(body)
        return Endpoint.EMBEDDINGS, orjson.dumps({"input": [1]})


def _validated(route: _Route, endpoint: Endpoint, body: bytes) -> Any:
    content = orjson.loads(body)
    gate.check(endpoint, content, body)
    try:
        return route.request.validate_python(content)
    except (TypeError, AttributeError, KeyError) as error:
        # vLLM's own validators stumble over fields of another type than they expect.
        raise InvalidRequest(f"the body does not have the shape of {endpoint}: {error}.") from error


def _build_llm(vllm_config: Any, client: RoutedClient) -> AsyncLLM:
    # The one place where vLLM chooses its engine client.
    EngineCoreClient.make_async_mp_client = staticmethod(lambda **_: client)
    llm = AsyncLLM(
        vllm_config=vllm_config, executor_class=Executor, log_stats=False, log_requests=False
    )
    inline.install(llm)
    return llm


def _raw_request(submit: Submit) -> Request:
    """The HTTP request as vLLM's classes want it: they read headers and leave notes in `state`."""
    headers = [
        (_VLLM_HEADERS.get(name, name).encode("latin-1"), value.encode("latin-1"))
        for name, value in submit.headers
    ]
    return Request({"type": "http", "headers": headers, "method": "POST", "path": submit.endpoint})


async def _response_events(events: AsyncIterator[Any]) -> AsyncIterator[str]:
    """The Responses API names its events; the other endpoints send bare data."""
    async for event in events:
        data = event.model_dump_json(indent=None, by_alias=True)
        yield f"event: {event.type}\ndata: {data}\n\n"


def _reply(submit: Submit, answer: Any) -> Reply:
    status, content_type, error = 200, JSON, ""
    if isinstance(answer, Response):
        status, body = answer.status_code, bytes(answer.body)
        content_type = answer.headers.get("content-type", JSON)
    else:
        brief = submit.endpoint in anthropic.ENDPOINTS  # its fields are there or not, never null
        body = answer.model_dump_json(by_alias=True, exclude_none=brief).encode()
    if isinstance(answer, ErrorResponse):
        status, error = answer.error.code, answer.error.type
    return Reply(submit.request_id, status, content_type, body, error=error)


def _refusal(submit: Submit, event: str, trace: RequestTrace) -> Reply:
    """A stream that begins with its error."""
    body = event.partition("data: ")[2].strip().encode()
    error = orjson.loads(body)["error"]
    status = trace.failure.http_status if trace.failure is not None else error.get("code", 500)
    return Reply(submit.request_id, int(status), JSON, body, error=str(error["type"]))


def _failure(submit: Submit, error: Exception) -> Reply:
    """An exception as an answer; only our own bugs are 500 and logged."""
    status, body = _error(submit, error)
    kind = type(error).__name__
    return Reply(submit.request_id, status, JSON, orjson.dumps(body), error=kind)


def _error(submit: Submit, error: Exception) -> tuple[int, dict[str, Any]]:
    match error:
        case ValidationError():
            invalid = _validation_failure(error)
            return invalid.http_status, invalid.body()
        case RequestFailed():
            return error.error.http_status, error.error.body()
        case DynamoError():
            return error.http_status, error.body()
    response = create_error_response(error)
    if response.error.code < 500:
        return response.error.code, response.model_dump()
    logger.error("request %s failed", submit.api_id, exc_info=error)
    failure = InternalError(f"internal error; the log has it under request id {submit.api_id}.")
    return response.error.code, failure.body()


def _validation_failure(error: ValidationError) -> InvalidRequest:
    """pydantic's first complaint as one sentence, with the field it is about."""
    first = error.errors(include_url=False, include_context=False)[0]
    param = ".".join(str(part) for part in first["loc"]) or None
    message = first["msg"].removeprefix("Value error, ")
    return InvalidRequest(f"{param}: {message}" if param else message, param=param)
