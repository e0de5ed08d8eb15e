"""What the chaos benchmark takes for an answer, a right one and a missed target."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.benchmarks.chaos import Row, head, line
from tests.benchmarks.chaos_load import SHAPES, Answer, difference, essence, events

USAGE = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
STREAM = SHAPES[1]


def stream(*texts: str, finish: str | None = "length", done: bytes = b"data: [DONE]\n\n") -> bytes:
    told: list[Any] = [{"choices": [{"index": 0, "text": text}]} for text in texts]
    told[-1]["choices"][0]["finish_reason"] = finish
    told.append({"choices": [], "usage": USAGE})
    return b"".join(b"data: %b\n\n" % json.dumps(one).encode() for one in told) + done


def test_how_a_stream_is_cut_does_not_matter_and_all_else_does() -> None:
    right = essence(events(stream("ab", "cd")))
    assert essence(events(stream("a", "bcd"))) == right
    whole = {"choices": [{"index": 0, "text": "abcd", "finish_reason": "length"}], "usage": USAGE}
    assert essence([whole]) == right
    for other, says in (
        (stream("ab", "xd"), "text of choice 0 from 2 of 4 on: 'abxd', not 'abcd'"),
        (stream("abcd", finish="stop"), "finish_reason"),
        (stream("abc"), "text of choice 0 from 3 of 4 on"),
        (stream("ab", "cd").replace(b'_tokens": 4', b'_tokens": 5'), "usage"),
    ):
        said = essence(events(other))
        assert said != right
        assert says in difference(right, said)


@pytest.mark.parametrize(
    "body",
    [
        stream("ab", done=b""),
        stream("ab", done=b'data: {"error": {"message": "lost"}}\n\ndata: [DONE]\n\n'),
        b"data: [DO",
    ],
)
def test_what_does_not_end_well_has_failed(body: bytes) -> None:
    with pytest.raises(ValueError, match="the stream"):
        events(body)


def answered(**fields: Any) -> Answer:
    right = {"times_s": [1.0, 1.1, 2.9, 3.0], "essence": "right"}
    return Answer(STREAM, 0.5, **(right | fields))


def test_only_pauses_that_end_after_the_incident_count() -> None:
    assert answered().gap_s(2.0) == pytest.approx(1.8)
    assert answered().gap_s(2.95) == pytest.approx(0.1)
    assert answered(times_s=[]).gap_s(0.0) == answered(times_s=[]).ttft_s == 0.0


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({}, []),
        ({"essence": "wrong"}, ["1 answers are wrong"]),
        ({"error": "lost"}, ["1 requests failed"]),
        ({"error": "lost", "refused": True}, ["1 requests failed"]),
    ],
)
def test_a_target_is_missed_by_whatever_is_lost_or_wrong(
    fields: dict[str, Any], says: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.benchmarks.chaos.difference", lambda right, said: "")
    row = Row("worker", "SIGKILL")
    row.add([answered(**fields)], {STREAM.name: "right"}, 2.95)
    assert row.misses(strict_gap=True) == [f"worker, SIGKILL: {one}" for one in says]
    assert line(row).count("|") == head().splitlines()[0].count("|")


def test_slow_or_never_back_or_left_is_missed_too_but_the_frontend_may_fail() -> None:
    slow = Row("worker", "SIGKILL")
    slow.add([answered()], {STREAM.name: "right"}, 2.0)
    assert slow.misses(strict_gap=True) == ["worker, SIGKILL: a stream paused for 1.80 s"]
    assert slow.misses(strict_gap=False) == []
    lost = Row("frontend", "SIGSTOP", failed=3, back_s=[1.0, None], left=["process 7"])
    assert lost.misses(strict_gap=True) == [
        "frontend, SIGSTOP: not all processes came back",
        "frontend, SIGSTOP: left: process 7",
    ]
