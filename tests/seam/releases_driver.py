"""Prints, as JSON, what our code makes of things that differ between releases of vLLM.

Run in a process of its own, as it imports vLLM: ``python -m tests.seam.releases_driver``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from http import HTTPStatus
from types import SimpleNamespace
from typing import Any

from vllm.entrypoints.serve.engine.protocol import ErrorInfo, ErrorResponse
from vllm.exceptions import VLLMValidationError

from dynamo_cli.engines.vllm import refusals
from dynamo_cli.engines.vllm.core import warmup
from dynamo_cli.engines.vllm.front import anthropic
from dynamo_cli.engines.vllm.front.failures import EventError
from dynamo_cli.engines.vllm.front.trace import RequestTrace, current_trace
from tests.support.driver import tell


def main() -> None:
    tell(
        {
            "refused": [status(VLLMValidationError("a")), status(ValueError("b"))],
            "failed": status(RuntimeError("c")),
            "warm": warm(),
            "texts": stream(
                ["data: 1", 'data: {"error": {"message": "m", "type": "t"}}', "data: 2"]
            ),
            "objects": stream([SimpleNamespace(id=1), broken(), SimpleNamespace(id=2)]),
            "ended": ended([SimpleNamespace(id=1), broken()]),
        }
    )


def status(error: Exception) -> int:
    """Of a request that the engine does not take for this reason."""
    return refusals.of_request(error).http_status


def warm() -> list[str]:
    """What the warm-up leaves of the backend of grammars."""
    backend = SimpleNamespace(destroy=lambda: None)
    manager = SimpleNamespace(backend=backend, backend_name="xgrammar")
    scheduler = SimpleNamespace(has_requests=lambda: False)
    core: Any = SimpleNamespace(
        structured_output_manager=manager,
        scheduler=scheduler,
        preprocess_add_request=lambda request: (request, 0),
        add_request=lambda _request, _wave: None,
    )
    model = SimpleNamespace(
        runner_type="generate", is_encoder_decoder=False, skip_tokenizer_init=False
    )
    config: Any = SimpleNamespace(model_config=model, lora_config=None)
    warmup.run(core, config, prefills=False)
    return [str(manager.backend), str(manager.backend_name)]


def broken() -> ErrorResponse:
    code = HTTPStatus.INTERNAL_SERVER_ERROR
    return ErrorResponse(error=ErrorInfo(message="m", type="t", code=code))


def stream(chunks: list[Any]) -> list[Any]:
    """How many chunks of a stream vLLM translates, and the error that ends it."""
    handler = SimpleNamespace(message_stream_converter=lambda given: given)
    anthropic.install(handler)
    trace = RequestTrace("a", "b")
    current_trace.set(trace)

    async def given() -> AsyncIterator[Any]:
        for chunk in chunks:
            yield chunk

    async def translated() -> int:
        return len([one async for one in handler.message_stream_converter(given())])

    count = asyncio.run(translated())
    return [count, str(trace.broken)]


def ended(chunks: list[Any]) -> list[str]:
    """The events of a stream with an error, if vLLM ends each stream as if it was complete."""

    async def completed(given: AsyncIterator[Any]) -> AsyncIterator[str]:
        async for _ in given:
            yield "event"
        yield "the end"

    handler = SimpleNamespace(message_stream_converter=completed)
    anthropic.install(handler)
    trace = RequestTrace("a", "b")
    current_trace.set(trace)
    told: list[str] = []

    async def given() -> AsyncIterator[Any]:
        for chunk in chunks:
            yield chunk

    async def listen() -> None:
        try:
            async for event in anthropic.events(handler.message_stream_converter(given()), trace):
                told.append(event)
        except EventError as error:
            told.append(str(error))

    asyncio.run(listen())
    return told


if __name__ == "__main__":
    main()
