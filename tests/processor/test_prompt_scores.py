"""Log probabilities of long prompts are converted in pieces, and become the same objects."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.driver import result_of

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def told() -> Any:
    return result_of("tests.processor.prompt_scores_driver")


def test_the_pieces_are_what_vllm_makes_of_the_whole(told: Any) -> None:
    assert told["same"]
    assert told["rows"] == 10 * 256 + 1
    assert told["corrected"], "a character of several tokens belongs to the last one of them"
    assert told["left"] == 0, "vLLM would convert them once more"


def test_outputs_wait_in_their_order_and_others_do_not(told: Any) -> None:
    assert told["held"] == [False, True, True, True, True, False]
    assert told["passed"] == ["gone", "other", "long", "long"]
    assert told["turns"] > 40


def test_a_short_prompt_does_not_wait_for_a_long_one(told: Any) -> None:
    assert told["after eight turns"] == ["gone", "other"]
