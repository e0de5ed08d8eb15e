"""The Messages API: vLLM's own class for it, and errors in Anthropic's shape."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import orjson
from pydantic import TypeAdapter
from vllm.entrypoints.anthropic.protocol import (
    AnthropicCountTokensRequest,
    AnthropicMessagesRequest,
)

from dynamo_cli.engines.vllm.trace import RequestTrace
from dynamo_cli.errors import anthropic_body
from dynamo_cli.messages import Endpoint, Reply

ENDPOINTS = (Endpoint.MESSAGES, Endpoint.COUNT_TOKENS)
HANDLER = "anthropic_serving_messages"
ERROR_EVENT = "event: error\n"

MESSAGES: TypeAdapter[Any] = TypeAdapter(AnthropicMessagesRequest)
COUNT_TOKENS: TypeAdapter[Any] = TypeAdapter(AnthropicCountTokensRequest)


def shaped(endpoint: Endpoint, reply: Reply) -> Reply:
    """The same answer; an error in the shape that the endpoint's clients expect."""
    if endpoint not in ENDPOINTS or reply.status < 400:
        return reply
    body = anthropic_body(orjson.loads(reply.body)["error"]["message"], reply.status)
    return msgspec.structs.replace(reply, body=orjson.dumps(body))


async def events(answer: AsyncIterator[str], trace: RequestTrace) -> AsyncIterator[str]:
    """The events of a stream; what vLLM makes of our failures is put right.

    It takes the error in the stream that it translates for a chunk, and complains of its shape.
    """
    async for event in answer:
        failure = trace.failure
        if event.startswith(ERROR_EVENT) and failure is not None:
            body = anthropic_body(failure.message, failure.http_status)
            yield f"{ERROR_EVENT}data: {orjson.dumps(body).decode()}\n\n"
        else:
            yield event
