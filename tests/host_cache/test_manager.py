"""What vLLM's scheduler does with the host cache, and what a prefill worker keeps there."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.driver import result_of

pytestmark = pytest.mark.engine

NOTHING = [0, 0, 0]
"""Leases, searches and slots of the client, entries of the manager."""


@pytest.fixture(scope="module")
def told() -> Any:
    return result_of("tests.host_cache.manager_driver")


def test_what_was_loaded_is_not_stored_again_and_written_in_order(told: Any) -> None:
    in_order, given_up, kept, left = told["a_load"]
    assert in_order, "who evicts blocks must know which of them comes first"
    assert given_up == 22, "all slots that it still had"
    assert (kept, left) == (0, 0)


def test_an_aborted_request_keeps_its_slots_until_the_copies_have_ended(told: Any) -> None:
    assert told["an_aborted_load"] == [[0, 1], [], 1, 0, 0]


def test_a_small_prompt_is_neither_looked_up_nor_stored(told: Any) -> None:
    assert told["a_small_prompt"] == [[], [], 0]


def test_a_lease_begins_when_all_is_stored_and_ends_once(told: Any) -> None:
    assert told["a_lease"] == [[], [], ["a"], {}, 1, *NOTHING]


def test_a_lease_waits_for_what_another_job_stores(told: Any) -> None:
    """A regression: prompts with a beginning in common were told to lack it."""
    assert told["a_lease_on_what_another_job_stores"] == [False, True, *NOTHING]


def test_what_is_missing_is_counted_by_reason(told: Any) -> None:
    kept, failures, *rest = told["what_is_missing"]
    assert (kept, failures) == (["a", "b"], {"no_room": 1, "no_cache": 1})
    assert rest == NOTHING


def test_jobs_that_end_otherwise_leave_no_lease(told: Any) -> None:
    assert told["jobs_that_end_otherwise"] == [1, *NOTHING]


def test_after_a_reset_only_what_is_computed_from_then_on_is_stored(told: Any) -> None:
    assert told["a_reset"] == [[2, 0], [0, 4], 0, 0]


def test_a_reset_while_blocks_are_loaded_does_not_end_the_worker(told: Any) -> None:
    assert told["a_reset_of_what_cannot_be_reset"] == [False, False]


def test_of_a_prompt_that_is_only_asked_about_nothing_is_kept(told: Any) -> None:
    assert told["a_prompt_that_is_only_asked_about"] == [[1, 1], 1, *NOTHING]


def test_a_request_that_fails_alone_gives_its_blocks_back(told: Any) -> None:
    assert told["a_request_that_fails_alone"] == [["a"], ["a"], True]
