"""Chats with many log probabilities are made in a thread, so that no stream waits for them.

vLLM makes a few objects for each log probability, and an answer may have millions of them. The JSON
of an answer is made in small pieces: pydantic lets no other thread run while it makes one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionLogProbs
from vllm.outputs import RequestOutput

MANY = 2048
"""Log probabilities of an answer above which it is made in a thread: 40 ms of work."""


class UnmadeAnswer(NamedTuple):
    """An answer that is still to be made, in a thread.

    Attributes:
        make: makes vLLM's answer.
    """

    make: Callable[[], Awaitable[Any]]


def has_many(request: Any, output: RequestOutput) -> bool:
    """Whether the answer to a chat has more than `MANY` log probabilities."""
    of_answers, of_prompt = request.top_logprobs or 0, request.prompt_logprobs or 0
    scored = sum(len(part.logprobs) for part in output.outputs if part.logprobs is not None)
    prompt = len(output.prompt_logprobs or ())
    return bool(scored * (1 + of_answers) + prompt * (1 + of_prompt) > MANY)


def body_of(answer: Any) -> bytes:
    """Return an answer of vLLM's classes as JSON; its choices are removed from it."""
    choices, answer.choices = answer.choices, []
    before, _, after = _json(answer).partition(_NO_CHOICES)
    return b"%b%b%b]%b" % (before, _NO_CHOICES[:-1], b",".join(map(_choice, choices)), after)


def _choice(choice: Any) -> bytes:
    if not isinstance(choice.logprobs, ChatCompletionLogProbs) or not choice.logprobs.content:
        return _json(choice)
    tokens, choice.logprobs.content = choice.logprobs.content, []
    before, _, after = _json(choice).partition(_NO_TOKENS)
    return b"%b%b%b]%b" % (before, _NO_TOKENS[:-1], b",".join(map(_json, tokens)), after)


def _json(model: Any) -> bytes:
    made: str = model.model_dump_json(by_alias=True)
    return made.encode()


# No text of an answer has these bytes, since JSON escapes quotes within a string.
_NO_CHOICES = b'"choices":[]'
_NO_TOKENS = b'"logprobs":{"content":[]'
