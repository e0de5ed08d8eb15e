"""The Messages API: vLLM's own class for it, with the errors of the stream that it translates."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from pydantic import TypeAdapter
from vllm.entrypoints.anthropic.protocol import (
    AnthropicCountTokensRequest,
    AnthropicMessagesRequest,
)

from dynamo_cli.engines.vllm.front.failures import EventError, raise_error
from dynamo_cli.engines.vllm.front.trace import RequestTrace, current_trace

HANDLER = "anthropic_serving_messages"

MESSAGES: TypeAdapter[Any] = TypeAdapter(AnthropicMessagesRequest)
COUNT_TOKENS: TypeAdapter[Any] = TypeAdapter(AnthropicCountTokensRequest)


def install(handler: Any) -> None:
    """Keep errors of the chat's stream from the translation.

    It takes them for chunks, and complains of their shape.
    """
    convert = handler.message_stream_converter
    handler.message_stream_converter = lambda chunks: convert(_up_to_an_error(chunks))


async def _up_to_an_error(chunks: AsyncIterator[str]) -> AsyncIterator[str]:
    async for text in chunks:
        try:
            raise_error(text)
        except EventError as error:
            current_trace.get().broken = error
            return
        yield text


async def events(answer: AsyncIterator[str], trace: RequestTrace) -> AsyncIterator[str]:
    """The events of a stream.

    Raises:
        EventError: the stream below ended with an error.
    """
    async for event in answer:
        yield event
    if trace.broken is not None:
        raise trace.broken
