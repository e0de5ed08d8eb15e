"""Template and tokenizer of a short request in the loop itself, of a long one in a thread.

vLLM has threads do both for every request. For a short one that costs more than the work: two
threads to wake, and two wake-ups of the loop.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from vllm.renderers.hf import HfRenderer, safe_apply_chat_template
from vllm.v1.engine.async_llm import AsyncLLM

from dynamo_cli.engines.vllm.trace import current_trace

SHORT_BYTES = 8192
"""Of a request's body: well under a millisecond of work, for which other streams wait."""

Blocking = Callable[..., Any]
Async = Callable[..., Awaitable[Any]]


def is_short(body: bytes) -> bool:
    """Whether a request may be prepared in the loop; a template of its own could take for ever."""
    return len(body) <= SHORT_BYTES and b'"chat_template"' not in body


def install(llm: AsyncLLM) -> None:
    """Put the choice in the place of vLLM's wrappers."""
    renderer = llm.renderer
    renderer._tokenize_prompt_async = _either(
        renderer._tokenize_prompt, renderer._tokenize_prompt_async
    )
    if isinstance(renderer, HfRenderer):
        renderer._apply_chat_template_async = _either(
            safe_apply_chat_template, renderer._apply_chat_template_async
        )


def _either(here: Blocking, in_thread: Async) -> Async:
    async def run(*args: Any, **kwargs: Any) -> Any:
        trace = current_trace.get(None)
        if trace is not None and trace.short:
            return here(*args, **kwargs)
        return await in_thread(*args, **kwargs)

    return run
