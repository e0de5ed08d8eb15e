"""Which loads belong to the step that uses their blocks; vLLM's own part is played."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.driver import result_of

pytestmark = pytest.mark.engine

WAITS, GOES_ON = True, False


@pytest.fixture(scope="module")
def told() -> Any:
    return result_of("tests.host_cache.joined_driver")


def test_only_a_part_of_a_prompt_is_loaded_in_its_step(told: Any) -> None:
    parts, nothing, joining = told["a_part_of_the_prompt"]
    assert parts == [WAITS, WAITS, GOES_ON, GOES_ON]
    assert nothing == [GOES_ON, GOES_ON]
    assert joining == [], "nothing was found the last time"


def test_the_loads_of_a_step_are_limited(told: Any) -> None:
    whole, shared, steps, next_step = told["the_bytes_of_a_step"]
    assert whole == [GOES_ON, WAITS]
    assert shared == [True, False, False, True, False], "5 of 8 blocks, then 4, none, 2 and 2"
    assert [len(one) for one in steps] == [2, 0]
    assert next_step is True


def test_with_several_groups_of_layers_none_belongs_to_a_step(told: Any) -> None:
    assert told["several_groups"] is WAITS


def test_none_belongs_to_a_step_while_others_are_done_between_steps(told: Any) -> None:
    assert told["loads_between_steps"] == [GOES_ON, GOES_ON, WAITS]


def test_an_earlier_decision_does_not_hold(told: Any) -> None:
    left, later, nothing, after_nothing, step = told["one_that_ends_or_asks_again"]
    assert left == []
    assert [later, nothing, after_nothing] == [False, False, False]
    assert step == []


def test_vllm_sees_no_load_of_a_request_that_runs(told: Any) -> None:
    first, seen, under_way, after, left = told["a_load_under_way"]
    assert (first, seen) == ([1], [9])
    assert under_way == [[1, 9], True], "until it has ended, even if its request has"
    assert (after, left) == ([], 0)


def test_who_did_not_wait_is_not_told_that_its_load_has_ended(told: Any) -> None:
    before, joined, finished, left = told["a_worker"]
    assert (before, joined) == ([], [[1, 2]])
    assert finished == [[["sent"], ["c"]], [["sent"], []], [["sent"], []]]
    assert left == {}
