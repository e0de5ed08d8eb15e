"""An engine that goes on with an answer gives the rest of it, wherever it was broken off."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.adapter import RANK, write
from tests.support.driver import result_of, tiny

CLOSE = 1e-4
"""Most difference of log probabilities."""

COMPLETE = "the answer is complete already, with {} tokens."
WRONG = "the grammar does not allow what was answered already."


@pytest.mark.engine
@pytest.mark.parametrize(
    ("backend", "options"),
    [
        ("xgrammar", ("--max-num-batched-tokens", "64", "--max-num-seqs", "32")),
        ("xgrammar", ("--no-enable-prefix-caching", "--async-scheduling")),
        ("guidance", ("--enable-lora", "--max-lora-rank", str(RANK))),
    ],
    ids=["chunked", "not cached", "guidance"],
)
def test_the_rest_of_an_answer_is_the_same_from_every_place(
    backend: str, options: tuple[str, ...], tmp_path: Path
) -> None:
    words = str(write(tmp_path)), backend, *options
    result = result_of("tests.engine.resume_driver", tiny(), *words)
    for name, answers in result["answers"].items():
        whole = answers["whole"]
        assert whole["end"] is not None, name
        assert whole["first"] == (["prompt"] if name == "prompt" else []) + ["stats", "queued"]
        for place, rest in (*answers["alone"].items(), *answers["moved"].items()):
            compare(f"{name}, {place}", int(place), whole, rest)
        assert answers["counted"] == [0, 0, 0, 0], name
    assert result["refused"] == [COMPLETE.format(24), COMPLETE.format(25), WRONG, False]


def compare(what: str, place: int, whole: dict[str, Any], rest: dict[str, Any]) -> None:
    assert rest["tokens"] == whole["tokens"][place:], what
    assert rest["end"] == whole["end"], what
    assert rest["first"] == [], what
    assert len(rest["logprobs"]) == len(whole["logprobs"][place:]), what
    for row, expected in zip(rest["logprobs"], whole["logprobs"][place:], strict=True):
        assert row == pytest.approx(expected, abs=CLOSE), what
