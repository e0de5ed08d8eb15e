"""Limits the tokens of vLLM's steps while answers stream, by a `StepBudget`."""

from __future__ import annotations

import itertools
from typing import Any

from dynamo_cli.engines.step_budget import StepBudget

GENERATE = "generate"
"""vLLM's name for engines whose answers have tokens."""


def install(scheduler: Any, prompt_tokens: int) -> None:
    """Limit the tokens of each step that vLLM's scheduler makes.

    Args:
        prompt_tokens: most prompt tokens of a short step; 0: no limit.
    """
    config = scheduler.scheduler_config
    # If a prompt or an image may not be split, the step must have room for all of it.
    cuts = config.enable_chunked_prefill and not config.disable_chunked_mm_input
    # With steps that are scheduled ahead, an embedding request would look like a stream.
    streams = scheduler.vllm_config.model_config.runner_type == GENERATE
    if prompt_tokens and cuts and streams:
        _limit(scheduler, prompt_tokens)


def _limit(scheduler: Any, prompt_tokens: int) -> None:
    schedule, steps = scheduler.schedule, itertools.count()
    each = 1 + scheduler.num_spec_tokens
    turns = scheduler.vllm_config.parallel_config.pipeline_parallel_size
    budget = StepBudget(scheduler.max_num_scheduled_tokens, prompt_tokens, each, turns)

    def limited(*args: Any) -> Any:
        step = next(steps)
        streams = [one.request_id for one in scheduler.running if not one.is_prefill_chunk]
        scheduler.max_num_scheduled_tokens = budget.tokens(step, streams)
        output = schedule(*args)
        budget.spent(step, streams, output.total_num_scheduled_tokens)
        return output

    scheduler.schedule = limited
