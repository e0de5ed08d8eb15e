"""Template and tokenizer of a short request in the loop itself, of a longer one in a thread.

vLLM has threads do both for every request. For a short one that costs more than the work: two
threads to wake, and two wake-ups of the loop. Long ones have a lane of their own (`lanes.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import ContextVar, copy_context
from functools import partial
from typing import Any

from vllm.config import ModelConfig
from vllm.renderers.hf import HfRenderer, safe_apply_chat_template
from vllm.utils.async_utils import make_async
from vllm.v1.engine.async_llm import AsyncLLM

from dynamo_cli.engines.vllm.front import gate
from dynamo_cli.engines.vllm.front.lanes import Lanes
from dynamo_cli.engines.vllm.front.trace import current_trace

SHORT_BYTES = 8192
"""Of a request's body: well under a millisecond of work, for which other streams wait."""

FEW = 128
"""Values in a short body: each may be a prompt."""

OWN_TEMPLATE = b'"chat_template"'

Blocking = Callable[..., Any]
Async = Callable[..., Awaitable[Any]]


_here: ContextVar[bool] = ContextVar("_here", default=False)
"""In a thread of a lane: what vLLM would give to another thread is done in this one."""


def is_short(body: bytes) -> bool:
    """Whether a request may be prepared in the loop; a template of its own could take for ever."""
    return len(body) <= SHORT_BYTES and body.count(b",") < FEW and OWN_TEMPLATE not in body


def install(llm: AsyncLLM, lanes: Lanes) -> None:
    """Put the choice in the place of vLLM's wrappers, and the lanes in the place of its threads."""
    llm.add_request = _paced(llm.add_request)
    renderer = llm.renderer
    renderer._executor.shutdown()
    renderer._executor._inner = lanes
    renderer._executor.replace_inner = lanes.renew
    tokenize = _bounded(renderer._tokenize_prompt, llm.model_config)
    renderer._tokenize_prompt_async = _either(tokenize, make_async(tokenize, renderer._executor))
    renderer._async_tokenizer_decode = _either(renderer._decode, renderer._async_tokenizer_decode)
    if isinstance(renderer, HfRenderer):
        renderer._apply_chat_template_async = _either(
            safe_apply_chat_template, renderer._apply_chat_template_async
        )
        if not llm.model_config.is_multimodal_model:
            renderer.render_messages_async = _whole(renderer, lanes)


def run(work: Coroutine[Any, Any, Any]) -> Any:
    """Do it from beginning to end in this thread, which is one of a lane."""
    _here.set(True)
    return asyncio.run(work)


def _bounded(tokenize: Blocking, model: ModelConfig) -> Blocking:
    """vLLM bounds a text by the context, unless it is only to be tokenized."""

    def run(prompt: Any, params: Any) -> Any:
        if params.max_total_tokens is None:
            gate.check_text(prompt["prompt"], gate.Limits(model.max_model_len))
        return tokenize(prompt, params)

    return run


def _either(here: Blocking, in_thread: Async) -> Async:
    async def run(*args: Any, **kwargs: Any) -> Any:
        if _is_in_place():
            return here(*args, **kwargs)
        return await in_thread(*args, **kwargs)

    return run


def _is_in_place() -> bool:
    trace = current_trace.get(None)
    return _here.get() or (trace is not None and trace.in_place)


def _paced(add: Async) -> Async:
    """Prompts of one request go to engines a few at a time: others have their turn between them."""

    async def run(*args: Any, **kwargs: Any) -> Any:
        trace = current_trace.get(None)
        if trace is None:
            return await add(*args, **kwargs)
        async with trace.pace:
            return await add(*args, **kwargs)

    return run


def _whole(renderer: HfRenderer, lanes: Lanes) -> Async:
    """Messages are looked through in the thread too that applies the template to them."""
    render = renderer.render_messages_async

    async def run_either(messages: Any, params: Any) -> Any:
        if _is_in_place():
            return await render(messages, params)
        loop, context = asyncio.get_running_loop(), copy_context()
        work = partial(run, render(messages, params))
        return await renderer._render_with_timeout(loop.run_in_executor(lanes, context.run, work))

    return run_either
