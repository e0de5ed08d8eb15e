"""How many tokens the next step may have, with vLLM's scheduler played; see also `test_parity`."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from dynamo_cli.engines.vllm.core.chunks import GENERATE, Chunks

MOST, CHUNK = 8192, 2048


def scheduler(**changes: Any) -> Any:
    values = {"chunked": True, "whole_images": False, "runner": GENERATE, "spec": 0} | changes
    config = SimpleNamespace(
        enable_chunked_prefill=values["chunked"], disable_chunked_mm_input=values["whole_images"]
    )
    model = SimpleNamespace(runner_type=values["runner"])
    return SimpleNamespace(
        scheduler_config=config,
        vllm_config=SimpleNamespace(model_config=model),
        max_num_scheduled_tokens=MOST,
        num_spec_tokens=values["spec"],
        running=[],
    )


def limited(made: Any, *, streams: int, prompts: int = 0, tokens: int = CHUNK) -> int:
    """Return the most tokens of a step with so many streams and unfinished prompts before it."""
    chunks = Chunks(made, tokens)
    is_prompt = [False] * streams + [True] * prompts
    made.running = [SimpleNamespace(is_prefill_chunk=one) for one in is_prompt]
    chunks.limit()
    return int(made.max_num_scheduled_tokens)


def test_streams_have_room_beside_the_prompts() -> None:
    assert limited(scheduler(), streams=1) == CHUNK + 1
    assert limited(scheduler(), streams=60, prompts=2) == CHUNK + 60
    assert limited(scheduler(spec=3), streams=60) == CHUNK + 4 * 60


def test_without_streams_steps_are_as_large_as_vllm_makes_them() -> None:
    assert limited(scheduler(), streams=0, prompts=3) == MOST


def test_the_limit_ends_with_the_last_stream() -> None:
    made = scheduler()
    chunks = Chunks(made, CHUNK)
    made.running = [SimpleNamespace(is_prefill_chunk=False)]
    chunks.limit()
    made.running = []
    chunks.limit()
    assert made.max_num_scheduled_tokens == MOST


def test_a_step_never_has_more_than_the_engine_takes() -> None:
    assert limited(scheduler(), streams=5, tokens=MOST) == MOST


@pytest.mark.parametrize(
    "changes",
    [{"chunked": False}, {"whole_images": True}, {"runner": "pooling"}],
    ids=["whole prompts", "whole images", "embeddings"],
)
def test_what_cannot_or_need_not_be_cut_is_not_limited(changes: dict[str, Any]) -> None:
    assert limited(scheduler(**changes), streams=9) == MOST


def test_zero_is_no_limit() -> None:
    assert limited(scheduler(), streams=9, tokens=0) == MOST
