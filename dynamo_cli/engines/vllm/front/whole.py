"""Whole answers of plain chats, completions and messages: their JSON is made from constant parts.
Chats and completions with many log probabilities are left for a thread (`scored.py`).

vLLM makes five objects and their JSON for each answer. The bytes here are the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import orjson
from vllm.entrypoints.openai.chat_completion import serving as chats
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionResponse
from vllm.entrypoints.openai.completion import serving as completions
from vllm.entrypoints.openai.completion.protocol import CompletionResponse
from vllm.outputs import RequestOutput

from dynamo_cli.engines.vllm.front import message_stream, scored
from dynamo_cli.engines.vllm.front.direct import is_common, is_common_completion
from dynamo_cli.engines.vllm.front.failures import JSON
from dynamo_cli.engines.vllm.front.trace import current_trace
from dynamo_cli.messages.request import Reply


def install(chat: Any, completion: Any, message: Any) -> None:
    """Let vLLM's objects for chats, completions and messages make such answers where they can."""
    if type(chat) is chats.OpenAIServingChat:  # others make other answers
        chat.chat_completion_full_generator = _chats(chat, _chat_body)
    if message_stream.is_known(message):
        message.chat_completion_full_generator = _chats(message, _message_body)
    if type(completion) is completions.OpenAIServingCompletion:
        completion.request_output_to_completion_response = _completions(completion)


def _chats(serving: Any, body_of: Callable[..., bytes]) -> Callable[..., Awaitable[Any]]:
    answer: Callable[..., Awaitable[Any]] = serving.chat_completion_full_generator

    async def run(
        request: Any, outputs: Any, answer_id: str, model: str, *args: Any, **more: Any
    ) -> Any:
        common = serving.parser_cls is None and is_common(serving, request)
        if not common and not (request.logprobs or request.prompt_logprobs):
            return await answer(request, outputs, answer_id, model, *args, **more)
        created = int(chats.time.time())
        final: RequestOutput | None = None
        try:
            async for output in outputs:
                final = output
        except asyncio.CancelledError:
            return serving.create_error_response("Client disconnected")
        if not common or final is None or not _is_plain(final) or more.get("mm_token_counts"):
            make = partial(answer, request, _again(final), answer_id, model, *args, **more)
            many = final is not None and scored.has_many([final])
            return scored.UnmadeAnswer(partial(_scored, make)) if many else await make()
        body = body_of(serving, request, final, answer_id, created, model)
        return Reply(current_trace.get().request_id, 200, JSON, body)

    return run


def _completions(serving: Any) -> Callable[..., Any]:
    answer: Callable[..., Any] = serving.request_output_to_completion_response

    def run(
        outputs: list[RequestOutput],
        request: Any,
        answer_id: str,
        created: int,
        model: str,
        *args: Any,
    ) -> Any:
        common = len(outputs) == 1 and is_common_completion(serving, request)
        if not common or not _is_plain(outputs[0]):
            make = partial(answer, outputs, request, answer_id, created, model, *args)
            many = not request.stream and scored.has_many(outputs)
            return scored.UnmadeAnswer(partial(_scored, _awaitable(make))) if many else make()
        body = _completion_body(serving, outputs[0], answer_id, created, model)
        return Reply(current_trace.get().request_id, 200, JSON, body)

    return run


async def _scored(make: Callable[[], Awaitable[Any]]) -> Any:
    """Make an answer with many log probabilities."""
    answer = await make()
    if not isinstance(answer, (ChatCompletionResponse, CompletionResponse)):
        return answer
    return Reply(current_trace.get().request_id, 200, JSON, scored.body_of(answer))


def _awaitable(make: Callable[[], Any]) -> Callable[[], Awaitable[Any]]:
    async def run() -> Any:
        return make()

    return run


def _is_plain(output: RequestOutput) -> bool:
    """Whether an answer has nothing but a text, and is no error."""
    part = output.outputs[0]
    return (
        part.finish_reason not in (None, "error")
        and part.routed_experts is None
        and part.spec_decode_metrics is None
        and output.prompt_logprobs is None
        and output.kv_transfer_params is None
        and output.ec_transfer_params is None
        and output.encoder_prompt_token_ids is None
    )


async def _again(output: RequestOutput | None) -> AsyncIterator[RequestOutput]:
    """Yield an output that has been received already."""
    if output is not None:
        yield output


def _chat_body(
    serving: Any, request: Any, output: RequestOutput, answer_id: str, created: int, model: str
) -> bytes:
    """Return the answer as the JSON of vLLM's `ChatCompletionResponse`."""
    dumps, details = orjson.dumps, b"null"
    if serving.enable_prompt_tokens_details:
        details = _DETAILS % (
            dumps(output.num_cached_tokens),
            dumps(output.num_cache_creation_tokens),
        )
    head = (dumps(answer_id), created, dumps(model), dumps(serving.get_chat_request_role(request)))
    return _CHAT % (*head, *_answer(serving, output, details))


def _message_body(
    serving: Any, _request: Any, output: RequestOutput, answer_id: str, _created: int, model: str
) -> bytes:
    """Return the answer as the JSON of vLLM's `AnthropicMessagesResponse`."""
    part, details = output.outputs[0], (output.num_cached_tokens, output.num_cache_creation_tokens)
    usage = message_stream.usage_of(serving, output, len(part.token_ids), details)
    why, sequence = message_stream.why(part.finish_reason, part.stop_reason)
    head = (orjson.dumps(answer_id), orjson.dumps(part.text), orjson.dumps(model))
    reason = b"" if why is None else b'"stop_reason":%b,' % orjson.dumps(why)
    stop = b"" if sequence is None else b'"stop_sequence":%b,' % orjson.dumps(sequence)
    return _MESSAGE % (*head, reason, stop, usage)


def _completion_body(
    serving: Any, output: RequestOutput, answer_id: str, created: int, model: str
) -> bytes:
    """Return the answer as the JSON of vLLM's `CompletionResponse`."""
    dumps, details = orjson.dumps, b"null"
    if serving.enable_prompt_tokens_details and output.num_cached_tokens is not None:
        details = _DETAILS % (dumps(output.num_cached_tokens), b"null")
    head = (dumps(answer_id), created, dumps(model))
    return _COMPLETION % (*head, *_answer(serving, output, details))


def _answer(serving: Any, output: RequestOutput, details: bytes) -> tuple[Any, ...]:
    """Return the values from the text to the usage, which are the same in both."""
    part, prompt = output.outputs[0], len(output.prompt_token_ids or ())
    tokens = len(part.token_ids)
    values = (part.text, part.finish_reason, part.stop_reason, serving.system_fingerprint)
    return (*map(orjson.dumps, values), prompt, prompt + tokens, tokens, details)


_USAGE = (
    b'"usage":{"prompt_tokens":%d,"total_tokens":%d,"completion_tokens":%d,'
    b'"prompt_tokens_details":%b,"completion_tokens_details":null},'
)
_CHAT = (
    b'{"id":%b,"object":"chat.completion","created":%d,"model":%b,"choices":[{"index":0,'
    b'"message":{"role":%b,"content":%b,"refusal":null,"annotations":null,"audio":null,'
    b'"function_call":null,"reasoning":null},"logprobs":null,"finish_reason":%b,'
    b'"stop_reason":%b,"token_ids":null,"routed_experts":null}],"service_tier":null,'
    b'"system_fingerprint":%b,'
    + _USAGE
    + b'"prompt_logprobs":null,"prompt_token_ids":null,"prompt_text":null,'
    b'"kv_transfer_params":null,"ec_transfer_params":null,"metrics":null}'
)
_COMPLETION = (
    b'{"id":%b,"object":"text_completion","created":%d,"model":%b,"choices":[{"index":0,'
    b'"text":%b,"logprobs":null,"finish_reason":%b,"stop_reason":%b,"token_ids":null,'
    b'"prompt_logprobs":null,"prompt_token_ids":null,"routed_experts":null}],"service_tier":null,'
    b'"system_fingerprint":%b,'
    + _USAGE
    + b'"kv_transfer_params":null,"ec_transfer_params":null,"metrics":null}'
)
_MESSAGE = (
    b'{"id":%b,"type":"message","role":"assistant","content":[{"type":"text","text":%b}],'
    b'"model":%b,%b%b"usage":%b}'
)
_DETAILS = b'{"cached_tokens":%b,"created_cache_tokens":%b,"multimodal_tokens":null}'
