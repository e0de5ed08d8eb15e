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
from dynamo_cli.engines.vllm.core import vocabulary
from dynamo_cli.engines.vllm.front import anthropic
from dynamo_cli.engines.vllm.front.failures import EventError
from dynamo_cli.engines.vllm.front.trace import RequestTrace, current_trace
from tests.support.driver import tell


def main() -> None:
    tell(
        {
            "refused": [status(VLLMValidationError("a")), status(ValueError("b"))],
            "failed": status(RuntimeError("c")),
            "chosen": chosen(),
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


def chosen() -> list[list[Any]]:
    """The backend of grammars after requests, and after what warms up has forgotten them."""
    manager = SimpleNamespace(backend=None, backend_name=None, tokenizer=None)
    manager.grammar_init = lambda _: None
    model = SimpleNamespace(
        runner_type="generate", skip_tokenizer_init=False, get_vocab_size=lambda: 1
    )
    outputs = SimpleNamespace(backend="auto")
    config = SimpleNamespace(model_config=model, structured_outputs_config=outputs)
    core: Any = SimpleNamespace(structured_output_manager=manager, vllm_config=config)
    vocabulary.BACKENDS["auto"] = FakeBackend
    tables = vocabulary.Vocabulary(core)
    told: list[list[Any]] = []
    for name in ("", "guidance", "xgrammar"):
        params = SimpleNamespace(structured_outputs=SimpleNamespace(_backend=name))
        manager.grammar_init(
            SimpleNamespace(structured_output_request=name or None, sampling_params=params)
        )
        told.append([str(manager.backend), manager.backend_name])
    tables.unchoose()
    told.append([str(manager.backend), manager.backend_name])
    begin = manager.grammar_init = object()
    vocabulary.BACKENDS["auto"] = BrokenBackend
    return [*told, [vocabulary.Vocabulary(core).ready, manager.grammar_init is begin]]


class BrokenBackend:
    """Cannot read this tokenizer."""

    def __init__(self, config: Any, *, tokenizer: Any, vocab_size: int) -> None:
        raise TypeError("a tokenizer of another kind")


class FakeBackend:
    """Has no tables."""

    def __init__(self, config: Any, *, tokenizer: Any, vocab_size: int) -> None:
        """Take what vLLM's backends take."""

    def __str__(self) -> str:
        return "tables"


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
