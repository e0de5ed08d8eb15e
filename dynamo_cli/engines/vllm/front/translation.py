"""Translates what parsers find in an answer into events of the Messages API.

vLLM's converter decides where blocks of reasoning, text and tool calls begin and end, and must see
the chat events that have to do with that. What adds to the block of text or reasoning that is open
changes nothing in the converter, so its events are made here, from parts that stay the same.
"""

from __future__ import annotations

import types
from collections import deque
from collections.abc import AsyncGenerator, Generator
from typing import Any

import orjson
from vllm.entrypoints.anthropic.serving import AnthropicServingMessages
from vllm.entrypoints.generate.base.protocol import DeltaMessage
from vllm.outputs import CompletionOutput, RequestOutput

from dynamo_cli.engines.vllm.front.chat_events import DONE, ChatEvents
from dynamo_cli.engines.vllm.front.failures import raise_error

KINDS = {
    "content": ("text", b'"type":"text_delta","text":'),
    "reasoning": ("thinking", b'"type":"thinking_delta","thinking":'),
}
"""By field of a chat event, the type of the block that it belongs to, and how its event begins."""


class _Feed:
    """The chat events for the converter. It waits where there is none, and is resumed by hand."""

    def __init__(self) -> None:
        self.events: deque[str] = deque()
        self.ended = False

    def __aiter__(self) -> _Feed:
        return self

    async def __anext__(self) -> str:
        while not self.events:
            if self.ended:
                raise StopAsyncIteration
            await _pause()
        return self.events.popleft()


@types.coroutine
def _pause() -> Generator[None, None, None]:
    yield


class Translation:
    """The translation of one stream.

    Args:
        serving: vLLM's object for messages.
        chat: makes the chat events of the stream.
    """

    def __init__(self, serving: Any, chat: ChatEvents) -> None:
        self._chat = chat
        self._feed = _Feed()
        convert = AnthropicServingMessages.message_stream_converter
        self._converter: AsyncGenerator[str, None] = convert(serving, self._feed)
        self._waiting: Any = None  # the call of the converter that waits for a chat event
        self._block = ""  # type of the open block
        self._index = b""

    def begin(self, output: RequestOutput) -> None:
        """Let the converter see the first chat event, which says who speaks."""
        self._convert(self._chat.first(output))

    def of(self, delta: DeltaMessage, part: CompletionOutput, finish: str | None) -> list[bytes]:
        """Return the events for what a parser found in new text.

        Args:
            finish: why the answer ended; None if it goes on.

        Raises:
            EventError: the converter failed.
        """
        if finish is None and len(delta.model_fields_set) == 1:
            (name,) = delta.model_fields_set
            block, begin = KINDS.get(name, ("", b""))
            text = getattr(delta, name)
            if block and block == self._block and text:
                return [b"%b%b%b%b%b" % (_BEFORE, begin, orjson.dumps(text), _AFTER, self._index)]
        return self._convert(self._chat.delta(delta, part, finish))

    def end(self, output: RequestOutput, tokens: int) -> list[bytes]:
        """Return the events after the last text.

        Args:
            tokens: tokens of the answer.

        Raises:
            EventError: the converter failed.
        """
        return self._convert(self._chat.end(output, tokens, None)) + self._convert(DONE)

    def close(self) -> None:
        """End the converter."""
        self._feed.ended = True
        self._feed.events.clear()
        self._events()

    def _convert(self, event: bytes) -> list[bytes]:
        self._feed.events.append(event.decode())
        events = self._events()
        for made in events:
            raise_error(made)
            if made.startswith(_START):
                told = orjson.loads(made.partition("data: ")[2])
                self._block = told["content_block"]["type"]
                self._index = b"%d}\n\n" % told["index"]
            elif made.startswith(_STOP):
                self._block = ""
        return [made.encode() for made in events]

    def _events(self) -> list[str]:
        """Run the converter until it waits for a chat event, or has ended."""
        events = []
        while True:
            waiting = self._waiting or self._converter.__anext__()
            try:
                waiting.send(None)
            except StopIteration as made:
                self._waiting = None
                events.append(made.value)
            except StopAsyncIteration:
                self._waiting = None
                return events
            else:
                self._waiting = waiting
                return events


_START, _STOP = "event: content_block_start\n", "event: content_block_stop\n"
_BEFORE = b'event: content_block_delta\ndata: {"type":"content_block_delta","delta":{'
_AFTER = b'},"index":'
