"""What is kept of a stream for another processor, and the ids that it makes again."""

from __future__ import annotations

import pytest

from tests.support.driver import result_of

pytestmark = pytest.mark.engine

PROTOCOLS = ("chat_completion.protocol", "completion.protocol", "chat_completion.batch_serving")
"""Modules whose times are only in whole answers, which are not gone on with."""


def test_outputs_are_packed_and_read() -> None:
    told = result_of("tests.processor.given_driver")
    assert told["sizes"] == [24, 16, 40, 24, 20, 16, 16]
    whole = [
        [
            (
                part["call"],
                part["choice"],
                part["tokens"],
                part["finish"],
                part["stop_token"],
                part["counts"],
            )
            for part in group
        ]
        for group in told["groups"]
    ]
    assert whole == [
        [(0, 0, [5], "", None, [7, 0])],
        [(0, 0, [6], "", None, None)],
        [(0, 1, [], "", None, [0, 0]), (0, 0, [7, 8], "", None, None)],
        [(3, 0, [1], "", None, [2, 0])],
        [(0, 0, [9], "stop", 9, None)],
        [(0, 1, [10], "", None, None)],
        [(3, 0, [2**31 - 1], "length", None, None)],
    ]


def test_ids_and_times_are_those_of_the_seed() -> None:
    told = result_of("tests.processor.identity_driver")
    one, again = told["same"]
    assert one == again
    assert len(set(one)) == len(one)
    assert one[-1] == 5.5
    assert not set(one[:-1]) & set(told["other"])
    first, second = told["random"]
    assert not set(first) & set(second)
    known = told["known"]
    untold = set(told["timed"]) - set(known["timed"])
    assert {name for name in untold if not name.endswith(PROTOCOLS)} == set()
    assert set(told["random_in"]) <= set(known["named"]), "vLLM makes ids in another place too"
