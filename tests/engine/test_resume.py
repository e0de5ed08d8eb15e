"""An engine that goes on with an answer gives the rest of it, wherever it was broken off."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.driver import result_of, tiny

CLOSE = 1e-4
"""Most difference of log probabilities."""


@pytest.mark.engine
@pytest.mark.parametrize(
    "options",
    [("--max-num-batched-tokens", "64"), ("--no-enable-prefix-caching",)],
    ids=["chunked and cached", "not cached"],
)
def test_the_rest_of_an_answer_is_the_same_from_every_place(options: tuple[str, ...]) -> None:
    for name, answers in result_of("tests.engine.resume_driver", tiny(), *options).items():
        whole = answers["whole"]
        assert whole["end"] is not None, name
        for place, rest in (*answers["alone"].items(), *answers["moved"].items()):
            compare(f"{name}, {place}", int(place), whole, rest)


def compare(what: str, place: int, whole: dict[str, Any], rest: dict[str, Any]) -> None:
    assert rest["tokens"] == whole["tokens"][place:], what
    assert rest["end"] == whole["end"], what
    assert len(rest["logprobs"]) == len(whole["logprobs"][place:]), what
    for row, expected in zip(rest["logprobs"], whole["logprobs"][place:], strict=True):
        assert row == pytest.approx(expected, abs=CLOSE), what
    assert (rest["prompt"], rest["stats"]) == ((0, 0) if place else (whole["prompt"], 1)), what
