"""The Responses API's stream: named events, the first of them when the engine has begun."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from dynamo_cli.engines.vllm.front.trace import RequestTrace

EARLY = ("response.created", "response.in_progress")
"""Events that come before the engine was asked. They wait for it: a mistake that it finds can
still be answered with a status of its own."""


async def events(answer: AsyncIterator[Any], trace: RequestTrace) -> AsyncIterator[str]:
    """vLLM's events as text; `trace` learns the response and how many events went out."""
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
