"""Finds the request that made a step fail, and lets the engine go on without it if possible.

A step takes requests from the queue, gives them blocks, runs the model and samples. An exception
interrupts this, and vLLM itself cannot recover: its server ends. Here the engine recovers from
exceptions that come after the model has run (in sampling, grammars, logits processors). By then,
scheduler and model runner agree about the requests. All requests are preempted and the whole prefix
cache is dropped. Then the other requests are computed again, from their prompts and the tokens that
they have. The engine ends if the exception came earlier (in the scheduler, or while the runner
takes over its decisions), if several batches are in flight, if ranks are in other processes, or if
the device is broken.
"""

from __future__ import annotations

import traceback

import torch
from vllm.v1.engine.core import EngineCore
from vllm.v1.executor import UniProcExecutor

from dynamo_cli.engines.vllm import refusals
from dynamo_cli.errors import InternalError

HALF_DONE = ("schedule", "_update_states")
"""Functions of vLLM; an exception in them leaves scheduler and model runner inconsistent."""

FAILED = "the engine failed while it ran this request: {}"
"""The error message for the client of that request."""

DEVICE_LOST: tuple[type[BaseException], ...] = (torch.OutOfMemoryError, torch.AcceleratorError)
"""Exceptions after which the device cannot be used any more."""


def culprit(core: EngineCore, error: Exception) -> str:
    """The id of the request that made a step fail; empty if it is not known.

    It is known if the engine has only one request, or if the error names exactly one.
    """
    requests = list(core.scheduler.requests)
    if len(requests) > 1:
        text = str(error)
        requests = [request_id for request_id in requests if request_id in text]
    return requests[0] if len(requests) == 1 else ""


def named(error: Exception) -> InternalError:
    """The exception of a step as the error of the request that caused it."""
    return InternalError(FAILED.format(refusals.reason(error)))


def can_go_on(core: EngineCore, error: Exception) -> bool:
    """Whether the engine can go on without one request."""
    connector = core.scheduler.connector
    functions = {frame.name for frame in traceback.extract_tb(error.__traceback__)}
    return (
        core.batch_queue is None
        and isinstance(core.model_executor, UniProcExecutor)
        and not isinstance(error, DEVICE_LOST)
        and functions.isdisjoint(HALF_DONE)
        # A step that failed does not report which copies to and from the host cache have ended.
        and not (connector is not None and connector.has_pending_push_work())
    )


def leave_out(core: EngineCore, request_id: str) -> None:
    """Abort this request and let all others be computed again.

    Raises:
        RuntimeError: KV blocks are on their way from another engine.
    """
    core.abort_requests([request_id])
    for request in core.scheduler.requests.values():
        request.num_in_flight_tokens = 0  # the tokens of the failed step never come
    # vLLM counts blocks as cached when they are allocated, before they are computed.
    core.reset_prefix_cache(reset_running_requests=True)
    runner = core.model_executor.driver_worker.worker.model_runner
    runner.execute_model_state = None  # left by the forward pass whose sampling failed
