"""Answers of the Responses API: streams, which begin only when the engine has begun, and what has
many log probabilities, which a thread makes (see `scored.py`)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextvars import copy_context
from functools import partial
from typing import Any

from vllm.entrypoints.openai.responses.context import SimpleContext
from vllm.entrypoints.openai.responses.protocol import ResponsesResponse

from dynamo_cli.engines.vllm.front import scored
from dynamo_cli.engines.vllm.front.failures import JSON
from dynamo_cli.engines.vllm.front.lanes import Lane
from dynamo_cli.engines.vllm.front.trace import RequestTrace, current_trace
from dynamo_cli.messages.request import Reply

EARLY = ("response.created", "response.in_progress")
"""Events that vLLM gives before the engine has begun. They are held back until then, so that an
error of the engine can still have an HTTP status of its own."""


def install(serving: Any) -> None:
    """Let vLLM's object for responses leave whole answers with many log probabilities unmade."""
    full: Callable[..., Awaitable[Any]] = serving.responses_full_generator

    async def run(
        request: Any,
        params: Any,
        results: AsyncIterator[Any],
        context: Any,
        *args: Any,
        **more: Any,
    ) -> Any:
        make = partial(full, request, params, _nothing(), context, *args, **more)
        apart = request.stream or request.background or request.store
        if apart or not isinstance(context, SimpleContext):
            return await full(request, params, results, context, *args, **more)
        try:
            async for _ in results:
                pass
        except asyncio.CancelledError:
            return serving.create_error_response("Client disconnected")
        if context.final_output is None or not scored.has_many([context.final_output]):
            return await make()
        return scored.UnmadeAnswer(partial(_made, make))

    serving.responses_full_generator = run


async def _nothing() -> AsyncIterator[Any]:
    """What is left of the results when all have been received."""
    return
    yield  # it is a generator


async def _made(make: Callable[[], Awaitable[Any]]) -> Any:
    answer = await make()
    if not isinstance(answer, ResponsesResponse):
        return answer
    return Reply(current_trace.get().request_id, 200, JSON, json_of(answer))


async def events(answer: AsyncIterator[Any], trace: RequestTrace, lane: Lane) -> AsyncIterator[str]:
    """Yield vLLM's events as text; note the response and the number of sent events in `trace`.

    Args:
        lane: makes the text of events with many log probabilities.
    """
    early = ""
    async for event in answer:
        if sum(len(one.logprobs) * _width(one.logprobs) for one in _scored(event)) > scored.MANY:
            work = partial(copy_context().run, json_of, event)
            data = (await asyncio.wrap_future(lane.submit(trace, work))).decode()
        else:
            data = event.model_dump_json(indent=None, by_alias=True)
        text = f"event: {event.type}\ndata: {data}\n\n"
        if event.type in EARLY:
            trace.response = event.response.model_dump(mode="json", by_alias=True)
            early += text
        else:
            trace.events = event.sequence_number + 1
            yield early + text
            early = ""
    if early:
        yield early


def json_of(model: Any) -> bytes:
    """Return the JSON of a response or of an event, made in small pieces."""
    owners = list(_scored(model))
    lists = [owner.logprobs for owner in owners]
    for owner in owners:
        owner.logprobs = []
    try:
        parts = scored.json_of(model).split(_NO_SCORES)
    finally:
        for owner, scores in zip(owners, lists, strict=True):
            owner.logprobs = scores  # an event shares them with later ones
    if len(parts) != len(lists) + 1:
        return scored.json_of(model)
    made = [b",".join(map(scored.json_of, scores)) for scores in lists]
    filled = (b"%b]%b" % pair for pair in zip(made, parts[1:], strict=True))
    return (_NO_SCORES[:-1]).join([parts[0], *filled])


def _scored(model: Any) -> Iterator[Any]:
    """Yield what has log probabilities in a response or in an event, in the order of the JSON."""
    model = getattr(model, "response", model)
    if isinstance(getattr(model, "logprobs", None), list):
        yield model
    items = [*(getattr(model, "output", None) or ()), getattr(model, "item", None)]
    parts = [part for item in items for part in getattr(item, "content", None) or ()]
    for part in (*parts, getattr(model, "part", None)):
        if isinstance(getattr(part, "logprobs", None), list):
            yield part


def _width(scores: list[Any]) -> int:
    return 1 + len(scores[0].top_logprobs or ()) if scores else 0


# No text of an answer has these bytes, since JSON escapes quotes within a string.
_NO_SCORES = b'"logprobs":[]'
