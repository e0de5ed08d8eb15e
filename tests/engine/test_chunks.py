"""How many tokens steps may have, with vLLM's scheduler played; see also `test_parity`."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from dynamo_cli.engines.step_budget import STEPS_BETWEEN, StepBudget
from dynamo_cli.engines.vllm.core import chunks

MOST, CHUNK = 8192, 2048


class Scheduler:
    """vLLM's, which always finds as many prompt tokens as it may compute."""

    def __init__(self, **changes: Any) -> None:
        values = {"chunked": True, "whole_images": False, "runner": chunks.GENERATE, "spec": 0}
        values |= {"stages": 1}
        values |= changes
        self.scheduler_config = SimpleNamespace(
            enable_chunked_prefill=values["chunked"],
            disable_chunked_mm_input=values["whole_images"],
        )
        model = SimpleNamespace(runner_type=values["runner"])
        parallel = SimpleNamespace(pipeline_parallel_size=values["stages"])
        self.vllm_config = SimpleNamespace(model_config=model, parallel_config=parallel)
        self.max_num_scheduled_tokens = MOST
        self.num_spec_tokens = values["spec"]
        self.running: list[Any] = []
        self.requests: dict[str, Any] = {}

    def hold(self, *streams: str, prompts: int = 1) -> None:
        """Have these answers, and so many requests whose prompts are not computed yet."""
        self.running = [SimpleNamespace(request_id=one, is_prefill_chunk=False) for one in streams]
        unfinished = [
            SimpleNamespace(request_id=f"prompt {number}", is_prefill_chunk=True)
            for number in range(prompts)
        ]
        self.running += unfinished
        self.requests = {one.request_id: one for one in self.running}

    def schedule(self, throttle: bool = False) -> Any:
        assert not throttle
        streams = sum(not one.is_prefill_chunk for one in self.running)
        waits = len(self.requests) > streams
        return SimpleNamespace(
            total_num_scheduled_tokens=self.max_num_scheduled_tokens if waits else streams
        )


def limited(*, tokens: int = CHUNK, **changes: Any) -> Scheduler:
    made = Scheduler(**changes)
    chunks.install(made, tokens)
    return made


def tokens_of_step(made: Scheduler) -> int:
    return int(made.schedule(False).total_num_scheduled_tokens)


def test_an_answer_is_delayed_by_one_long_step() -> None:
    made = limited()
    made.hold("a")
    assert [tokens_of_step(made) for _ in range(3)] == [MOST, CHUNK + 1, CHUNK + 1]


def test_streams_have_room_beside_the_prompts() -> None:
    made = limited(spec=3)
    made.hold(*map(str, range(60)), prompts=2)
    assert tokens_of_step(made) == MOST
    assert tokens_of_step(made) == CHUNK + 4 * 60


def test_without_streams_steps_are_as_large_as_vllm_makes_them() -> None:
    made = limited()
    made.hold(prompts=3)
    assert [tokens_of_step(made) for _ in range(3)] == [MOST] * 3
    made.hold("a")
    assert tokens_of_step(made) == MOST, "those steps delayed nobody"


def test_answers_that_were_not_delayed_may_be() -> None:
    made = limited()
    made.hold("a", "b")
    assert tokens_of_step(made) == MOST
    made.hold("b", "c")
    assert tokens_of_step(made) == CHUNK + 2, "b was delayed before"
    made.hold("c", "d")
    assert tokens_of_step(made) == MOST


def test_steps_without_prompts_use_nothing_up() -> None:
    made = limited()
    made.hold("a", prompts=0)
    assert [tokens_of_step(made) for _ in range(3)] == [1, 1, 1]
    made.hold("a")
    assert tokens_of_step(made) == MOST


def test_an_answer_is_delayed_again_after_many_tokens() -> None:
    budget = StepBudget(MOST, CHUNK)
    budget.spent(7, ["a"], CHUNK + 2)
    again = 7 + STEPS_BETWEEN
    assert budget.tokens(again - 1, ["a"]) == CHUNK + 1
    assert budget.tokens(again, ["a"]) == MOST


def test_with_stages_an_answer_gets_a_token_in_some_steps_only() -> None:
    made = limited(stages=4)
    made.hold("a")
    assert [tokens_of_step(made) for _ in range(4 * STEPS_BETWEEN)].count(MOST) == 1
    assert tokens_of_step(made) == MOST


def test_a_step_at_the_limit_is_short() -> None:
    budget = StepBudget(MOST, CHUNK)
    budget.spent(0, ["a"], CHUNK + 1)
    assert budget.tokens(1, ["a"]) == MOST


def test_a_step_never_has_more_than_the_engine_takes() -> None:
    assert StepBudget(MOST, MOST).tokens(0, ["a"] * 5) == MOST


@pytest.mark.parametrize(
    "changes",
    [{"chunked": False}, {"whole_images": True}, {"runner": "pooling"}, {"tokens": 0}],
    ids=["whole prompts", "whole images", "embeddings", "zero"],
)
def test_what_cannot_or_shall_not_be_cut_is_not_limited(changes: dict[str, Any]) -> None:
    made = limited(**changes)
    made.hold("a")
    assert [tokens_of_step(made) for _ in range(3)] == [MOST] * 3
