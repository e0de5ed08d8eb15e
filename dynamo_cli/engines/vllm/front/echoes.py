"""Streams of completions that begin with the prompt and its log probabilities.

vLLM makes one event of them in the event loop, which takes more than a second for a prompt of
100,000 tokens. Here a thread makes it. vLLM's generator waits for nothing but the engine's outputs,
so it needs no event loop: it is given the outputs, and runs until it asks for the next one.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Generator
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from typing import Any

from vllm.outputs import RequestOutput

from dynamo_cli.engines.vllm.front import scored
from dynamo_cli.engines.vllm.front.lanes import Lane
from dynamo_cli.engines.vllm.front.trace import current_trace

NumberedOutput = tuple[int, RequestOutput]


def install(serving: Any, lane: Lane) -> None:
    """Let a thread make what vLLM's object for completions would make in the event loop.

    Args:
        lane: makes answers.
    """
    make: Callable[..., AsyncIterator[str]] = serving.completion_stream_generator

    def run(
        request: Any, prompts: Any, outputs: AsyncIterable[NumberedOutput], *args: Any, **more: Any
    ) -> AsyncIterator[str]:
        if not request.echo or request.logprobs is None:
            return make(request, prompts, outputs, *args, **more)
        steps = EchoSteps()
        events = make(request, prompts, steps.outputs(), *args, **more)
        return _stream(outputs, steps, events, partial(lane.submit, current_trace.get()))

    serving.completion_stream_generator = run


class EchoSteps:
    """Runs a generator of events by hand, from one output to the next."""

    def __init__(self) -> None:
        self._given: deque[NumberedOutput | Exception | None] = deque()
        self._running: Coroutine[Any, Any, str] | None = None
        self._lock = threading.Lock()  # of whoever runs it or ends it
        self._left = False

    async def outputs(self) -> AsyncIterator[NumberedOutput]:
        """Yield the outputs that are given."""
        while True:
            while not self._given:
                await _Pause()
            match self._given.popleft():
                case None:
                    return
                case Exception() as error:
                    raise error
                case output:
                    yield output

    def run(
        self, events: AsyncIterator[str], given: NumberedOutput | Exception | None
    ) -> list[str]:
        """Give the next output, or what ends the outputs; return the events that come of it."""
        made: list[str] = []
        with self._lock:
            if not self._left:
                self._given.append(given)
                made = self._run(events)
        if self._left:
            self.leave()  # once more, for it may have come while this ran
        return made

    def _run(self, events: AsyncIterator[str]) -> list[str]:
        made: list[str] = []
        while True:
            if self._running is None:
                self._running = _next(events)
            try:
                self._running.send(None)
                return made  # it asks for the next output
            except StopIteration as event:
                made.append(event.value)
                self._running = None
            except StopAsyncIteration:
                self._running = None
                return made

    def leave(self) -> None:
        """End the generator, which waits for an output that nobody will give any more. If a thread
        runs it now, that thread ends it."""
        self._left = True
        if self._lock.acquire(blocking=False):
            try:
                self._close()
            finally:
                self._lock.release()

    def _close(self) -> None:
        """Cancel the generator where it waits. To close it would leave the outputs suspended."""
        if self._running is not None:
            with suppress(asyncio.CancelledError, StopIteration, StopAsyncIteration):
                self._running.throw(asyncio.CancelledError())
            self._running = None


class _Pause:
    """Hands control back to whoever runs the coroutine by hand."""

    def __await__(self) -> Generator[None, None, None]:
        yield


async def _next(events: AsyncIterator[str]) -> str:
    return await anext(events)


async def _stream(
    outputs: AsyncIterable[NumberedOutput],
    steps: EchoSteps,
    events: AsyncIterator[str],
    submit: Callable[..., Any],
) -> AsyncIterator[str]:
    rest: Any = aiter(outputs)

    async def make(given: NumberedOutput | Exception | None) -> list[str]:
        if isinstance(given, tuple) and scored.has_many([given[1]]):
            work = partial(copy_context().run, steps.run, events, given)
            made: list[str] = await asyncio.wrap_future(submit(work))
            return made
        return steps.run(events, given)

    try:
        while True:
            given = await _output(rest)
            is_last = not isinstance(given, tuple)
            made = await make(given)
            del given  # it may have millions of log probabilities, and their event is as large
            while made:
                yield made.pop(0)
            if is_last:
                return
    finally:
        steps.leave()
        await rest.aclose()


async def _output(rest: Any) -> NumberedOutput | Exception | None:
    """The next output, or what ends the outputs: None, or an error of the engine."""
    try:
        found: NumberedOutput | None = await anext(rest, None)
    except Exception as error:  # noqa: BLE001 - vLLM's generator makes an event of it
        return error
    return found
