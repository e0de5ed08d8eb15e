"""Streams of plain messages, byte for byte those that vLLM translates from its chat streams.

vLLM makes each event of a chat as JSON, parses it again, and makes an event of the Messages API of
it. A server without parsers of reasoning and tools has one block of text in each answer, so the
events of all tokens but the first differ in their text only.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import orjson
from vllm.entrypoints.anthropic import serving as messages
from vllm.entrypoints.generate.base.protocol import DeltaMessage
from vllm.entrypoints.openai.chat_completion import serving as chats
from vllm.entrypoints.serve.engine.protocol import UsageInfo
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.v1.engine.async_llm import AsyncLLM

from dynamo_cli.engines.vllm.front.chat_events import ChatEvents
from dynamo_cli.engines.vllm.front.direct import Direct, Generation
from dynamo_cli.engines.vllm.front.outgoing import Outgoing
from dynamo_cli.engines.vllm.front.trace import current_trace
from dynamo_cli.engines.vllm.front.translation import Translation


class MessageEvents:
    """Makes the events of one stream.

    Args:
        serving: vLLM's object for messages.
        words: id of the answer and name of the model.
    """

    def __init__(self, serving: Any, words: tuple[str, str]) -> None:
        self._serving = serving
        self._words = words
        self._cached: tuple[int | None, int | None] = (None, None)
        self.has_text = False
        self._finish, self._stop = "stop", None

    def first(self, output: RequestOutput) -> bytes:
        """Return the event with which a stream begins; note what is cached."""
        self._cached = (output.num_cached_tokens, output.num_cache_creation_tokens)
        usage = usage_of(self._serving, output, 0, (None, None))
        return _START % (*map(orjson.dumps, self._words), usage)

    def block(self) -> bytes:
        """Return the event that begins the text."""
        self.has_text = True
        return _BLOCK

    def text(self, text: str | None) -> bytes:
        """Return an event with text."""
        return _BEFORE + orjson.dumps(text) + _AFTER

    def ended(self, finish: str, stop: Any) -> None:
        """Note why the answer ended."""
        self._finish, self._stop = finish, stop

    def end(self, output: RequestOutput, tokens: int) -> list[bytes]:
        """Return the events after the last text.

        Args:
            tokens: tokens of the answer.
        """
        usage = usage_of(self._serving, output, tokens, self._cached)
        last = _END % (*map(orjson.dumps, why(self._finish, self._stop)), usage)
        return [_BLOCK_STOP, last, _STOP] if self.has_text else [last, _STOP]


class MessageStream(Direct):
    """The stream of one message."""

    _events: MessageEvents

    def _text(self, text: str | None) -> None:
        if not text:
            return
        if not self._events.has_text:
            self._out.event(self._events.block())
        self._out.event(self._events.text(text))

    def _last(self, part: CompletionOutput) -> None:
        self._text(part.text)
        assert part.finish_reason is not None
        self._events.ended(part.finish_reason, part.stop_reason)

    def _end(self, output: RequestOutput) -> None:
        self._over.set_result(self._events.end(output, self._tokens))


class ParsedStream(Direct):
    """The stream of one message in which a parser looks for reasoning and tool calls."""

    _events: MessageEvents

    def __init__(self, *args: Any, translation: Translation) -> None:
        super().__init__(*args)
        self._translation = translation

    async def run(self, out: Outgoing) -> AsyncIterator[str] | None:
        """Send the stream up to its end; see `Direct`."""
        try:
            return await super().run(out)
        finally:
            self._translation.close()

    def _first(self, output: RequestOutput) -> bytes:
        self._translation.begin(output)
        return self._events.first(output)

    def _delta(self, delta: DeltaMessage, part: CompletionOutput, finish: str | None) -> None:
        for event in self._translation.of(delta, part, finish):
            self._out.event(event)

    def _end(self, output: RequestOutput) -> None:
        self._over.set_result(self._translation.end(output, self._tokens))


def is_known(serving: Any) -> bool:
    """Whether the answers of an object for messages are those that are made here."""
    known = type(serving) is messages.AnthropicServingMessages
    return known and not serving.enable_log_outputs


def install(llm: AsyncLLM, serving: Any) -> None:
    """Let vLLM's object for messages begin direct streams where it can."""
    if not is_known(serving):
        return
    serving.chat_completion_stream_generator = _begin(
        llm, serving, serving.chat_completion_stream_generator
    )


def _begin(
    llm: AsyncLLM, serving: Any, stream: Callable[..., AsyncIterator[str]]
) -> Callable[..., Direct | AsyncIterator[str]]:
    def begin(
        request: Any, outputs: Any, answer_id: str, model: str, *args: Any, **more: Any
    ) -> Direct | AsyncIterator[str]:
        def fail(raising: AsyncIterator[RequestOutput]) -> AsyncIterator[str]:
            return stream(request, raising, answer_id, model, *args, **more)

        if not isinstance(outputs, Generation):
            return fail(outputs)
        events, trace = MessageEvents(serving, (answer_id, model)), current_trace.get()
        if serving.parser_cls is None:
            plain = (llm, outputs, trace, events, serving, request, answer_id, None, fail)
            return MessageStream(*plain)
        parser = serving._make_parser(request, args[1], more.get("chat_template_kwargs"))
        words = (answer_id, 0, model)
        translation = Translation(serving, ChatEvents(serving, request, words, None))
        parsed = (llm, outputs, trace, events, serving, request, answer_id, parser, fail)
        return ParsedStream(*parsed, translation=translation)

    return begin


def usage_of(
    serving: Any, output: RequestOutput, tokens: int, cached: tuple[int | None, int | None]
) -> bytes:
    """Return the usage of an answer as JSON.

    Args:
        serving: vLLM's object for messages.
        tokens: tokens of the answer.
        cached: tokens of the prompt that were cached, and that were added to the cache; None if
            that is not known.
    """
    prompt = len(output.prompt_token_ids or ()) + len(output.encoder_prompt_token_ids or ())
    usage = UsageInfo(prompt_tokens=prompt, completion_tokens=tokens)
    usage.prompt_tokens_details = chats._make_prompt_tokens_details(
        serving.enable_prompt_tokens_details, *cached, None
    )
    made: str = messages._build_anthropic_usage(usage).model_dump_json(exclude_unset=True)
    return made.encode()


def why(finish: str | None, stop: int | str | None) -> tuple[str | None, str | None]:
    """Return why an answer without tool calls ended, and the text that stopped it."""
    told: tuple[str | None, str | None] = messages._to_anthropic_stop_reason(
        finish, stop, tool_used=False, tool_complete=False
    )
    return told


_START = (
    b'event: message_start\ndata: {"type":"message_start","message":{"id":%b,"type":"message",'
    b'"role":"assistant","content":[],"model":%b,"stop_reason":null,"stop_sequence":null,'
    b'"usage":%b}}\n\n'
)
_BLOCK = (
    b'event: content_block_start\ndata: {"type":"content_block_start",'
    b'"content_block":{"type":"text","text":""},"index":0}\n\n'
)
_BEFORE = (
    b'event: content_block_delta\ndata: {"type":"content_block_delta",'
    b'"delta":{"type":"text_delta","text":'
)
_AFTER = b'},"index":0}\n\n'
_BLOCK_STOP = b'event: content_block_stop\ndata: {"type":"content_block_stop","index":0}\n\n'
_END = (
    b'event: message_delta\ndata: {"type":"message_delta",'
    b'"delta":{"stop_reason":%b,"stop_sequence":%b},"usage":%b}\n\n'
)
_STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
