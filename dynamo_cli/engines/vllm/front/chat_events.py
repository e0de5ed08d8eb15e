"""The events of a chat stream, byte for byte those of vLLM's serving class.

Most of them differ in their text only, and are made from parts that stay the same. The others are
made with vLLM's classes.
"""

from __future__ import annotations

from typing import Any

import orjson
from vllm.entrypoints.generate.base.protocol import DeltaMessage
from vllm.entrypoints.openai.chat_completion import serving as chats
from vllm.entrypoints.openai.chat_completion.protocol import (
    ChatCompletionResponseStreamChoice,
    ChatCompletionStreamResponse,
)
from vllm.entrypoints.serve.engine.protocol import UsageInfo
from vllm.outputs import CompletionOutput, RequestOutput

DONE = b"data: [DONE]\n\n"
KIND = "chat.completion.chunk"
TEXT, REASONING = {"content"}, {"reasoning"}


class ChatEvents:
    """Makes the events of one stream with one answer.

    Args:
        serving: vLLM's object for chats.
        request: the request as vLLM's class.
        words: id and creation time of the answer, and the name of the model.
        mm_tokens: tokens of its images and the like, by kind.

    Attributes:
        usage: whether the stream ends with an event about usage.
    """

    def __init__(
        self,
        serving: Any,
        request: Any,
        words: tuple[str, int, str],
        mm_tokens: dict[str, int] | None,
    ) -> None:
        self._serving = serving
        self._request = request
        self._words = words
        self._mm_tokens = mm_tokens
        self.usage, _ = usage_of(serving, request)
        self._begin = begin_of(KIND, words) + b'"delta":{'
        self._before = self._begin + b'"content":'

    def first(self, _: RequestOutput) -> bytes:
        """Return the event with which a stream begins."""
        role = orjson.dumps(self._serving.get_chat_request_role(self._request))
        return self._begin + b'"role":' + role + _AFTER_ROLE

    def text(self, text: str | None) -> bytes:
        """Return an event with text."""
        return self._before + orjson.dumps(text) + _AFTER

    def last(self, text: str | None, finish: str, stop: int | str | None) -> bytes:
        """Return the event that says why the answer ended."""
        more = fingerprint_of(self._serving, self.usage)
        return b"%b%b%b%b%b%b%b%b}\n\n" % (
            *(self._before, orjson.dumps(text)),
            *(b'},"logprobs":null,"finish_reason":', orjson.dumps(finish)),
            *(b',"stop_reason":', orjson.dumps(stop), b',"token_ids":null}]', more),
        )

    def delta(self, delta: DeltaMessage, part: CompletionOutput, finish: str | None) -> bytes:
        """Return the event for what a parser found in new text.

        Args:
            finish: why the answer ended; None if it goes on.
        """
        plain = set() if delta.model_extra else delta.model_fields_set
        if plain == TEXT and finish is not None:
            return self.last(delta.content, finish, part.stop_reason)
        if plain == TEXT:
            return self.text(delta.content)
        if plain == REASONING and finish is None:
            return self._begin + b'"reasoning":' + orjson.dumps(delta.reasoning) + _AFTER
        choice = ChatCompletionResponseStreamChoice(
            index=0,
            delta=delta,
            logprobs=None,
            finish_reason=finish,
            token_ids=None,
            **({} if finish is None else {"stop_reason": part.stop_reason}),
        )
        chunk = self._chunk([chats.maybe_filter_parallel_tool_calls(choice, self._request)])
        fingerprint: str | None = self._serving.system_fingerprint
        if finish is not None and not self.usage and fingerprint is not None:
            chunk.system_fingerprint = fingerprint
        return f"data: {chunk.model_dump_json(exclude_unset=True)}\n\n".encode()

    def end(self, output: RequestOutput, tokens: int, reasoning_tokens: int | None) -> bytes:
        """Return the event about usage.

        Args:
            tokens: tokens of the answer.
            reasoning_tokens: those of its reasoning; None if they are not told.
        """
        prompt = len(output.prompt_token_ids or ()) + len(output.encoder_prompt_token_ids or ())
        usage = UsageInfo(
            prompt_tokens=prompt,
            completion_tokens=tokens,
            total_tokens=prompt + tokens,
            completion_tokens_details=None
            if reasoning_tokens is None
            else chats._make_completion_tokens_details(reasoning_tokens),
        )
        usage.prompt_tokens_details = chats._make_prompt_tokens_details(
            self._serving.enable_prompt_tokens_details,
            output.num_cached_tokens,
            output.num_cache_creation_tokens,
            self._mm_tokens,
        )
        metrics = None
        if (accepted := chats.build_spec_decoding_metrics(output)) is not None:
            metrics = chats.PerRequestMetrics(speculative_decoding=accepted)
        chunk = self._chunk(
            [],
            usage=usage,
            system_fingerprint=self._serving.system_fingerprint,
            metrics=metrics,
        )
        return f"data: {chunk.model_dump_json(exclude_unset=True, exclude_none=True)}\n\n".encode()

    def _chunk(self, choices: list[Any], **more: Any) -> ChatCompletionStreamResponse:
        answer_id, created, model = self._words
        return ChatCompletionStreamResponse(
            id=answer_id, object=KIND, created=created, choices=choices, model=model, **more
        )


_AFTER = b'},"logprobs":null,"finish_reason":null,"token_ids":null}]}\n\n'
_AFTER_ROLE = (
    b',"content":""},"logprobs":null,"finish_reason":null}],'
    b'"prompt_token_ids":null,"prompt_text":null}\n\n'
)


def usage_of(serving: Any, request: Any) -> tuple[bool, bool]:
    """Return whether a stream ends with an event about usage, and whether all events have usage."""
    at_the_end, always = chats.should_include_usage(
        request.stream_options, serving.enable_force_include_usage
    )
    return bool(at_the_end), bool(always)


def begin_of(kind: str, words: tuple[str, int, str]) -> bytes:
    """Return how an event with one choice begins.

    Args:
        kind: the event's `object`.
        words: id and creation time of the answer, and the name of the model.
    """
    answer_id, created, model = (orjson.dumps(word) for word in words)
    return b'data: {"id":%b,"object":"%b","created":%b,"model":%b,"choices":[{"index":0,' % (
        *(answer_id, kind.encode(), created, model),
    )


def fingerprint_of(serving: Any, usage: bool) -> bytes:
    """Return the end of the last event with a choice: the fingerprint, if it goes there.

    Args:
        usage: whether an event about usage follows, which has it then.
    """
    fingerprint = None if usage else serving.system_fingerprint
    return b"" if fingerprint is None else b',"system_fingerprint":' + orjson.dumps(fingerprint)
