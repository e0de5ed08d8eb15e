"""The Messages API, for which vLLM translates a chat stream, but not the errors in it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from pydantic import TypeAdapter
from vllm.entrypoints.anthropic.protocol import (
    AnthropicCountTokensRequest,
    AnthropicMessagesRequest,
)

from dynamo_cli.engines.vllm.front.direct import Direct
from dynamo_cli.engines.vllm.front.failures import EventError, raise_error, raise_response
from dynamo_cli.engines.vllm.front.trace import RequestTrace, current_trace
from dynamo_cli.messages.request import Reply

HANDLER = "anthropic_serving_messages"

MESSAGES: TypeAdapter[Any] = TypeAdapter(AnthropicMessagesRequest)
COUNT_TOKENS: TypeAdapter[Any] = TypeAdapter(AnthropicCountTokensRequest)


def install(handler: Any) -> None:
    """Stop the chat stream at an error, before vLLM translates it.

    vLLM 0.32 would take the error for a chunk, and fail because of its shape. Later releases
    translate it, but then only its text is left. What short ways have made needs no translation.
    """
    convert = handler.message_stream_converter

    def run(made: Any) -> Any:
        return made if isinstance(made, Direct | Reply) else convert(_up_to_an_error(made))

    handler.message_stream_converter = run


async def _up_to_an_error(chunks: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """Yield the chunks as they are: events as text in vLLM 0.32, objects in later releases."""
    async for chunk in chunks:
        try:
            if isinstance(chunk, str):
                raise_error(chunk)
            else:
                raise_response(chunk)
        except EventError as error:
            current_trace.get().broken = error
            return
        yield chunk


async def events(answer: AsyncIterator[str], trace: RequestTrace) -> AsyncIterator[str]:
    """Yield the events of a stream.

    Raises:
        EventError: the chat stream ended with an error.
    """
    async for event in answer:
        if trace.broken is not None:
            break  # vLLM 0.33 ends a stream that has stopped as if it was complete
        yield event
    if trace.broken is not None:
        raise trace.broken
