"""Answers with many log probabilities are made in a thread, so that no stream waits for them.

vLLM makes a few objects for each log probability, and an answer may have millions of them. To free
them takes long, and no other thread runs meanwhile. So log probabilities are kept in a few long
lists until the answer is made. The JSON of an answer is made in small pieces: pydantic lets no
other thread run while it makes one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any, NamedTuple

from pydantic import TypeAdapter
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionLogProbs
from vllm.entrypoints.openai.completion.protocol import CompletionLogProbs
from vllm.logprobs import FlatLogprobs, Logprob
from vllm.outputs import RequestOutput
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.output_processor import OutputProcessor

MANY = 2048
"""Log probabilities of an answer above which it is made in a thread: 40 ms of work."""

ROWS = 64
"""Tokens with their alternatives whose JSON is made at once."""


class UnmadeAnswer(NamedTuple):
    """An answer that is still to be made, in a thread.

    Attributes:
        make: makes vLLM's answer, or an answer from it.
    """

    make: Callable[[], Awaitable[Any]]


def install(llm: AsyncLLM) -> None:
    """Let vLLM keep the log probabilities of answers in a few lists, not in objects for each."""
    processor: OutputProcessor = llm.output_processor
    add: Callable[..., None] = processor.add_request

    def run(request: Any, *args: Any, **more: Any) -> None:
        add(request, *args, **more)
        scores = processor.request_states[request.request_id].logprobs_processor
        if scores is not None and scores.logprobs == []:
            scores.logprobs = FlatLogprobs()

    processor.add_request = run


def has_many(outputs: Iterable[RequestOutput]) -> bool:
    """Whether an answer has more than `MANY` log probabilities, those of its prompts included."""
    rows = [output.prompt_logprobs for output in outputs]
    rows += [part.logprobs for output in outputs for part in output.outputs]
    return sum(len(some) * len(some[-1] or ()) for some in rows if some) > MANY


def body_of(answer: Any) -> bytes:
    """Return a chat or a completion of vLLM's classes as JSON; lists are removed from it."""
    choices, answer.choices = answer.choices, []
    return _filled(_with_prompt_scores(answer), _NO_CHOICES, map(_choice, choices))


def _choice(choice: Any) -> bytes:
    match choice.logprobs:
        case ChatCompletionLogProbs(content=list(tokens)) if tokens:
            choice.logprobs.content = []
            return _filled(json_of(choice), _NO_TOKENS, map(json_of, tokens))
        case CompletionLogProbs(top_logprobs=rows) if rows:
            choice.logprobs.top_logprobs = []
            return _filled(_with_prompt_scores(choice), _NO_TOP, _pieces(_TOP, rows))
    return _with_prompt_scores(choice)


def _with_prompt_scores(model: Any) -> bytes:
    """Return the JSON of an answer to a chat, or of a choice of a completion, which have them."""
    rows = getattr(model, "prompt_logprobs", None)
    if not rows:
        return json_of(model)
    model.prompt_logprobs = []
    return _filled(json_of(model), _NO_PROMPT, _pieces(_PROMPT, rows))


def _pieces(adapter: TypeAdapter[Any], rows: list[Any]) -> Iterator[bytes]:
    """Yield the JSON of the elements of a list, a few at a time and without brackets."""
    return (adapter.dump_json(rows[at : at + ROWS])[1:-1] for at in range(0, len(rows), ROWS))


def _filled(text: bytes, empty: bytes, elements: Iterable[bytes]) -> bytes:
    """Put elements into the first list of this name, which is empty."""
    before, _, after = text.partition(empty)
    return b"%b%b%b]%b" % (before, empty[:-1], b",".join(elements), after)


def json_of(model: Any) -> bytes:
    """Return the JSON of one of vLLM's objects, as vLLM makes it."""
    made: str = model.model_dump_json(by_alias=True)
    return made.encode()


_TOP = TypeAdapter[Any](list[dict[str, float] | None])
_PROMPT = TypeAdapter[Any](list[dict[int, Logprob] | None])

# No text of an answer has these bytes, since JSON escapes quotes within a string.
_NO_CHOICES = b'"choices":[]'
_NO_TOKENS = b'"logprobs":{"content":[]'
_NO_TOP = b'"top_logprobs":[]'
_NO_PROMPT = b'"prompt_logprobs":[]'
