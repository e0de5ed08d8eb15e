"""Prepares short requests in the event loop itself, and longer ones in a thread.

vLLM applies the chat template and tokenizes in threads for every request. For a short one this
costs more than the work itself, since two threads must be woken up, and the event loop twice.
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

from dynamo_cli.engines.vllm.front import gate, tokenizing
from dynamo_cli.engines.vllm.front.lanes import Lanes
from dynamo_cli.engines.vllm.front.token_memory import TokenMemory
from dynamo_cli.engines.vllm.front.trace import current_trace

SHORT_BYTES = 8192
"""Largest body that is prepared in the event loop, bytes: well under a millisecond of work."""

FEW = 128
"""Bound of the values in a short body, because each of them may be a prompt."""

OWN_TEMPLATE = b'"chat_template"'

Blocking = Callable[..., Any]
Async = Callable[..., Awaitable[Any]]


_here: ContextVar[bool] = ContextVar("_here", default=False)
"""True in a thread of a lane, where nothing is passed on to another thread."""


def is_short(body: bytes) -> bool:
    """Whether a request may be prepared in the event loop.

    Not if it has a chat template of its own, which could run for ever.
    """
    return len(body) <= SHORT_BYTES and body.count(b",") < FEW and OWN_TEMPLATE not in body


def install(llm: AsyncLLM, lanes: Lanes, memory: TokenMemory | None) -> None:
    """Replace vLLM's functions that pass work to a thread, and its threads with the lanes."""
    llm.add_request = _paced(llm.add_request)
    renderer = llm.renderer
    renderer._executor.shutdown()
    renderer._executor._inner = lanes
    renderer._executor.replace_inner = lanes.renew
    tokenize = _bounded(tokenizing.remembering(renderer, memory), llm.model_config)
    tokenizing.install()
    renderer._tokenize_prompt = tokenize
    renderer._tokenize_prompt_async = _either(tokenize, make_async(tokenize, renderer._executor))
    renderer._async_tokenizer_decode = _either(renderer._decode, renderer._async_tokenizer_decode)
    end = renderer.get_eos_token_id()
    renderer.get_eos_token_id = lambda: end  # the tokenizer looks for it anew each time
    if isinstance(renderer, HfRenderer) and not llm.model_config.is_multimodal_model:
        renderer.render_messages_async = _in_lane(renderer, lanes)
        renderer.render_chat_async = _either(renderer.render_chat, renderer.render_chat_async)
        renderer.render_cmpl_async = _either(renderer.render_cmpl, renderer.render_cmpl_async)
    elif isinstance(renderer, HfRenderer):
        renderer._apply_chat_template_async = _either(
            safe_apply_chat_template, renderer._apply_chat_template_async
        )


def run(work: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine from beginning to end in this thread, which is one of a lane."""
    _here.set(True)
    return asyncio.run(work)


def _bounded(tokenize: Blocking, model: ModelConfig) -> Blocking:
    """Bound the text of `/tokenize`: vLLM bounds only texts that must fit into the context."""

    def run(prompt: Any, params: Any) -> Any:
        if params.max_total_tokens is None:
            gate.check_text(prompt["prompt"], gate.ModelLimits(model.max_model_len))
        return tokenize(prompt, params)

    return run


def _either(here: Blocking, in_thread: Async) -> Async:
    async def run(*args: Any, **kwargs: Any) -> Any:
        if is_in_place():
            return here(*args, **kwargs)
        return await in_thread(*args, **kwargs)

    return run


def is_in_place() -> bool:
    """Whether the work of this task or thread is not passed on to another thread."""
    trace = current_trace.get(None)
    return _here.get() or (trace is not None and trace.in_place)


def _paced(add: Async) -> Async:
    """Send the prompts of one request a few at a time, so that other requests get in between."""

    async def run(*args: Any, **kwargs: Any) -> Any:
        trace = current_trace.get(None)
        if trace is None:
            return await add(*args, **kwargs)
        async with trace.pace:
            return await add(*args, **kwargs)

    return run


def _in_lane(renderer: HfRenderer, lanes: Lanes) -> Async:
    """Have one job of a thread validate the messages and apply the template."""

    async def run(messages: Any, params: Any) -> Any:
        loop, context = asyncio.get_running_loop(), copy_context()
        work = partial(context.run, renderer.render_messages, messages, params)
        return await renderer._render_with_timeout(loop.run_in_executor(lanes, work))

    return run
