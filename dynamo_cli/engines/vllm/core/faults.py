"""A step that raised: whether one request is to blame, and whether the engine can go on without it.

A step takes requests from the queue, gives them blocks, runs the model and samples. What it raises
leaves that half done, and vLLM has no way back of its own; its server ends. There is one for what
is raised behind the model (sampling, grammars, logits processors): by then scheduler and model
runner agree about who is there, and taking all requests off the engine, with the whole prefix
cache, lets those that are left begin anew from their prompts and the tokens that they have. Before
that (in the scheduler, or while the runner takes over its decisions), with several batches under
way, with ranks in other processes, or on a device whose context is broken, the engine ends.
"""

from __future__ import annotations

import traceback

import torch
from vllm.v1.engine.core import EngineCore
from vllm.v1.executor import UniProcExecutor

from dynamo_cli.engines.vllm import refusals
from dynamo_cli.errors import InternalError

HALF_DONE = ("schedule", "_update_states")
"""Functions that leave scheduler and model runner at odds."""

FAILED = "the engine failed while it ran this request: {}"

DEVICE_LOST: tuple[type[BaseException], ...] = (torch.OutOfMemoryError, torch.AcceleratorError)


def culprit(core: EngineCore, error: Exception) -> str:
    """The request that a step failed for: the only one, or the only one it names; else empty."""
    requests = list(core.scheduler.requests)
    if len(requests) > 1:
        text = str(error)
        requests = [request_id for request_id in requests if request_id in text]
    return requests[0] if len(requests) == 1 else ""


def named(error: Exception) -> InternalError:
    """What a step raised, as the error of the request that it failed for."""
    return InternalError(FAILED.format(refusals.reason(error)))


def can_go_on(core: EngineCore, error: Exception) -> bool:
    """Whether the state allows to leave one request out."""
    functions = {frame.name for frame in traceback.extract_tb(error.__traceback__)}
    return (
        core.batch_queue is None
        and isinstance(core.model_executor, UniProcExecutor)
        and not isinstance(error, DEVICE_LOST)
        and functions.isdisjoint(HALF_DONE)
    )


def leave_out(core: EngineCore, request_id: str) -> None:
    """End this request and have all others begin anew.

    Raises:
        RuntimeError: blocks are on their way from elsewhere.
    """
    core.abort_requests([request_id])
    for request in core.scheduler.requests.values():
        request.num_in_flight_tokens = 0  # those of the step that failed never come
    # Blocks count as cached from the moment at which they are given out, before they are computed.
    core.reset_prefix_cache(reset_running_requests=True)
    runner = core.model_executor.driver_worker.worker.model_runner
    runner.execute_model_state = None  # of the forward pass whose sampling failed
