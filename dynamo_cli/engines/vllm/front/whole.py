"""Whole answers of plain chats: their JSON is made from parts that stay the same.

vLLM makes five objects and their JSON for each answer. The bytes here are the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import orjson
from vllm.entrypoints.openai.chat_completion import serving as chats
from vllm.outputs import RequestOutput

from dynamo_cli.engines.vllm.front.direct import is_common
from dynamo_cli.engines.vllm.front.failures import JSON
from dynamo_cli.engines.vllm.front.trace import current_trace
from dynamo_cli.messages.request import Reply


def install(serving: Any) -> None:
    """Let `serving`, vLLM's object for chats, answer without objects of its own where it can."""
    if type(serving) is not chats.OpenAIServingChat:  # others make other answers
        return
    answer: Callable[..., Awaitable[Any]] = serving.chat_completion_full_generator

    async def run(
        request: Any, outputs: Any, answer_id: str, model: str, *args: Any, **more: Any
    ) -> Any:
        if serving.parser_cls is not None or not is_common(serving, request):
            return await answer(request, outputs, answer_id, model, *args, **more)
        created = int(chats.time.time())
        final: RequestOutput | None = None
        try:
            async for output in outputs:
                final = output
        except asyncio.CancelledError:
            return serving.create_error_response("Client disconnected")
        if final is None or not _is_plain(final) or more.get("mm_token_counts"):
            return await answer(request, _again(final), answer_id, model, *args, **more)
        body = _body(serving, request, final, answer_id, created, model)
        return Reply(current_trace.get().request_id, 200, JSON, body)

    serving.chat_completion_full_generator = run


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


def _body(
    serving: Any, request: Any, output: RequestOutput, answer_id: str, created: int, model: str
) -> bytes:
    """Return the answer as the JSON of vLLM's `ChatCompletionResponse`."""
    part, prompt = output.outputs[0], len(output.prompt_token_ids or ())
    dumps, tokens = orjson.dumps, len(part.token_ids)
    details = b"null"
    if serving.enable_prompt_tokens_details:
        details = _DETAILS % (
            dumps(output.num_cached_tokens),
            dumps(output.num_cache_creation_tokens),
        )
    return _ANSWER % (
        dumps(answer_id),
        created,
        dumps(model),
        dumps(serving.get_chat_request_role(request)),
        dumps(part.text),
        dumps(part.finish_reason),
        dumps(part.stop_reason),
        dumps(serving.system_fingerprint),
        prompt,
        prompt + tokens,
        tokens,
        details,
    )


_ANSWER = (
    b'{"id":%b,"object":"chat.completion","created":%d,"model":%b,"choices":[{"index":0,'
    b'"message":{"role":%b,"content":%b,"refusal":null,"annotations":null,"audio":null,'
    b'"function_call":null,"reasoning":null},"logprobs":null,"finish_reason":%b,'
    b'"stop_reason":%b,"token_ids":null,"routed_experts":null}],"service_tier":null,'
    b'"system_fingerprint":%b,"usage":{"prompt_tokens":%d,"total_tokens":%d,'
    b'"completion_tokens":%d,"prompt_tokens_details":%b,"completion_tokens_details":null},'
    b'"prompt_logprobs":null,"prompt_token_ids":null,"prompt_text":null,'
    b'"kv_transfer_params":null,"ec_transfer_params":null,"metrics":null}'
)
_DETAILS = b'{"cached_tokens":%b,"created_cache_tokens":%b,"multimodal_tokens":null}'
