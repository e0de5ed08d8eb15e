"""Tells what is left of a stream with an echo when its client leaves; a program of its own."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

from dynamo_cli.engines.vllm.front import echoes, scored
from tests.support.driver import tell


class Output(SimpleNamespace):
    """An output that can be referred to weakly."""


class Serving:
    """Makes an event of each output, as vLLM's class does."""

    async def completion_stream_generator(
        self, request: Any, prompts: Any, outputs: AsyncIterator[Any]
    ) -> AsyncIterator[str]:
        async for _, output in outputs:
            yield f"data: {output.prompt_logprobs}"


class Lane:
    """Runs work at once."""

    def submit(self, _: Any, work: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(work())
        return future


async def left_after(events_taken: int, many: int) -> list[bool]:
    """Take so many events and leave; returns which of the given outputs are still alive, and
    whether the engine's side was closed."""
    scored.MANY = many
    alive: list[weakref.ref[Any]] = []
    closed: list[bool] = []

    async def outputs() -> AsyncIterator[Any]:
        try:
            for number in range(5):
                output = Output(prompt_logprobs=[{1: number}] * 10, outputs=[])
                alive.append(weakref.ref(output))
                yield 0, output
        finally:
            closed.append(True)

    serving: Any = Serving()
    echoes.current_trace.set(SimpleNamespace())  # type: ignore[arg-type]
    echoes.install(serving, Lane())  # type: ignore[arg-type]
    request = SimpleNamespace(echo=True, logprobs=1)
    events = serving.completion_stream_generator(request, [], outputs())
    for _ in range(events_taken):
        await anext(events)
    await events.aclose()
    del events
    await asyncio.sleep(0)
    return [one() is not None for one in alive] + closed


async def main() -> None:
    gc.disable()
    told = [await left_after(taken, many) for taken in (1, 3) for many in (1, 1000)]
    tell(told)


if __name__ == "__main__":
    asyncio.run(main())
