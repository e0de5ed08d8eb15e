"""Turns plain messages into vLLM's requests for chats without pydantic.

vLLM makes a chat of each message. If it has a few common fields and texts only, the chat is a copy
of one that vLLM has made, with the values of the message, which pydantic has checked already.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from vllm.entrypoints.anthropic.protocol import AnthropicMessagesRequest
from vllm.entrypoints.anthropic.serving import AnthropicServingMessages

from dynamo_cli.engines.vllm.front.short import MANY, Copies

FIELDS = frozenset(
    {
        *("model", "messages", "system", "max_tokens", "stream", "metadata"),
        *("temperature", "top_p", "top_k"),
    }
)
"""Fields that plain messages have; all others take vLLM's way."""

Convert = Callable[..., Any]


class _Chats:
    """Makes chats of plain messages.

    Args:
        stream: whether their answers are streamed.
    """

    def __init__(self, convert: Convert, *, stream: bool) -> None:
        chat = convert(_message(stream=stream))
        self._copies, self._given = Copies(chat), chat.model_fields_set
        self._options = chat.stream_options

    def make(self, request: AnthropicMessagesRequest, messages: list[Any]) -> Any:
        """Return the chat of a message whose texts are `messages`."""
        changed: dict[str, Any] = {
            "model": request.model,
            "messages": messages,
            "max_tokens": request.max_tokens,
            "max_completion_tokens": request.max_tokens,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "top_k": request.top_k,
            "stream_options": copy.copy(self._options),
        }
        return self._copies.make(changed, {*self._given})


def install(serving: Any) -> None:
    """Let vLLM's object for messages make such chats where it can."""
    if type(serving) is AnthropicServingMessages:  # others make other chats
        serving.to_chat_completion_request = _converting(
            serving, serving.to_chat_completion_request
        )


def plain_chat() -> Any:
    """Return the chat that vLLM makes of a plain message."""
    return AnthropicServingMessages.to_chat_completion_request(_message(stream=False))


def _message(*, stream: bool) -> AnthropicMessagesRequest:
    messages: Any = [{"role": "user", "content": "a"}]
    return AnthropicMessagesRequest(model="a", messages=messages, max_tokens=1, stream=stream)


def _converting(serving: Any, convert: Convert) -> Convert:
    chats = {stream: _Chats(convert, stream=stream) for stream in (False, True)}

    def run(request: Any, *, merge_inline_system: bool = False, **more: Any) -> Any:
        if type(request) is AnthropicMessagesRequest and request.model_fields_set <= FIELDS:
            messages: list[dict[str, Any]] = []
            where = {"merge_inline_system": merge_inline_system}
            serving._convert_system_message(request, messages, **where)
            serving._convert_messages(request.messages, messages, **where)
            if 0 < len(messages) <= MANY and all(map(_is_text, messages)):
                return chats[bool(request.stream)].make(request, messages)
        return convert(request, merge_inline_system=merge_inline_system, **more)

    return run


def _is_text(message: dict[str, Any]) -> bool:
    """Whether a message of a chat has a text, and nothing more than its role beside it."""
    return len(message) == 2 and type(message.get("content")) is str
