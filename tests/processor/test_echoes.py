"""Streams that begin with their prompt and its log probabilities."""

from __future__ import annotations

import pytest

from tests.support.driver import result_of

pytestmark = pytest.mark.engine


def test_nothing_is_left_of_a_stream_whose_client_leaves() -> None:
    told = result_of("tests.processor.echoes_driver")
    assert told == [[*[False] * taken, True] for taken in (1, 1, 3, 3)]
