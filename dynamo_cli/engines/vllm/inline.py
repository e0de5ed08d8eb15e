"""Templates and tokenization of short requests in the loop itself, of long ones in a thread."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from vllm.v1.engine.async_llm import AsyncLLM

from dynamo_cli.engines.vllm.trace import current_trace

SHORT_BYTES = 8192
"""Of a request body. It takes well under a millisecond; waking a thread and waiting for it twice
takes longer, and that is the time that every other stream would wait in any case."""

T = TypeVar("T")


class InlineWhenShort(ThreadPoolExecutor):
    """Runs what a short request submits at once, in the thread that submits it."""

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        trace = current_trace.get(None)
        if trace is None or not trace.short:
            return super().submit(fn, *args, **kwargs)
        done: Future[T] = Future()
        try:
            done.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - it is the caller's, who gets it from the future
            done.set_exception(error)
        return done


def install(llm: AsyncLLM) -> None:
    """Put it in the place of the renderer's own pool, which has as many threads."""
    executor = llm.renderer._executor
    executor.shutdown(wait=False)
    executor._inner = InlineWhenShort(executor._max_workers)
