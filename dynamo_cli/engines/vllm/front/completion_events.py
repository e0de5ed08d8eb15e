"""The events of a stream of `/v1/completions`, byte for byte those of vLLM's serving class."""

from __future__ import annotations

from typing import Any

import orjson
from vllm.entrypoints.openai.completion import serving as completions
from vllm.entrypoints.openai.completion.protocol import CompletionStreamResponse
from vllm.entrypoints.serve.engine.protocol import PromptTokenUsageInfo, UsageInfo
from vllm.outputs import RequestOutput

from dynamo_cli.engines.vllm.front.chat_events import begin_of, fingerprint_of, usage_of

KIND = "text_completion"


class CompletionEvents:
    """Makes the events of one stream with one answer.

    Args:
        serving: vLLM's object for completions.
        request: the request as vLLM's class.
        words: id and creation time of the answer, and the name of the model.

    Attributes:
        usage: whether the stream ends with an event about usage.
    """

    def __init__(self, serving: Any, request: Any, words: tuple[str, int, str]) -> None:
        self._serving = serving
        self._words = words
        self.usage, _ = usage_of(serving, request)
        self._before = begin_of(KIND, words) + b'"text":'
        self._cached: int | None = None

    def first(self, output: RequestOutput) -> bytes:
        """Return the event with which a stream begins: nothing. Note what is cached."""
        self._cached = output.num_cached_tokens
        return b""

    def text(self, text: str | None) -> bytes:
        """Return an event with text."""
        return self._before + orjson.dumps(text) + _AFTER

    def last(self, text: str | None, finish: str, stop: int | str | None) -> bytes:
        """Return the event that says why the answer ended."""
        more = fingerprint_of(self._serving, self.usage)
        return b"%b%b%b%b%b%b%b%b}\n\n" % (
            *(self._before, orjson.dumps(text)),
            *(b',"logprobs":null,"finish_reason":', orjson.dumps(finish)),
            *(b',"stop_reason":', orjson.dumps(stop), _NO_TOKENS, more),
        )

    def end(self, output: RequestOutput, tokens: int) -> bytes:
        """Return the event about usage.

        Args:
            tokens: tokens of the answer.
        """
        prompt = len(output.prompt_token_ids or ())
        usage = UsageInfo(
            prompt_tokens=prompt, completion_tokens=tokens, total_tokens=prompt + tokens
        )
        if self._serving.enable_prompt_tokens_details and self._cached is not None:
            usage.prompt_tokens_details = PromptTokenUsageInfo(cached_tokens=self._cached)
        metrics = None
        if (accepted := completions.build_spec_decoding_metrics(output)) is not None:
            metrics = completions.PerRequestMetrics(speculative_decoding=accepted)
        answer_id, created, model = self._words
        chunk = CompletionStreamResponse(
            id=answer_id,
            created=created,
            model=model,
            choices=[],
            usage=usage,
            system_fingerprint=self._serving.system_fingerprint,
            metrics=metrics,
        )
        return f"data: {chunk.model_dump_json(exclude_none=True)}\n\n".encode()


_NO_TOKENS = b',"prompt_token_ids":null,"token_ids":null}]'
_AFTER = b',"logprobs":null,"finish_reason":null,"stop_reason":null' + _NO_TOKENS + b"}\n\n"
