"""The stream of the Responses API, which begins only when the engine has begun."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from dynamo_cli.engines.vllm.front.trace import RequestTrace

EARLY = ("response.created", "response.in_progress")
"""Events that vLLM gives before the engine has begun. They are held back until then, so that an
error of the engine can still have an HTTP status of its own."""


async def events(answer: AsyncIterator[Any], trace: RequestTrace) -> AsyncIterator[str]:
    """Yield vLLM's events as text; note the response and the number of sent events in `trace`."""
    early = ""
    async for event in answer:
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
