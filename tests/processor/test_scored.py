"""Answers with many log probabilities, whose JSON is made in pieces."""

from __future__ import annotations

import pytest

from tests.support.driver import result_of

pytestmark = pytest.mark.engine


def test_the_pieces_are_the_json_of_the_whole_answer() -> None:
    told = result_of("tests.processor.scored_answers")
    assert told == {"compared": 8, "different": [], "kept": True}
