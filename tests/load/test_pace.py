"""Times at which requests are sent, and the end of a run."""

from __future__ import annotations

from itertools import islice, pairwise

import pytest

from dynamo_cli.lab.load.pace import Bounds, poisson
from dynamo_cli.lab.load.workload import Talks, WorkloadShape, conversations


@pytest.mark.parametrize(
    ("bounds", "parts"),
    [
        (Bounds(10), [Bounds(3), Bounds(3), Bounds(4)]),
        (Bounds(2), [Bounds(0), Bounds(1), Bounds(1)]),
        (Bounds(duration_s=6.0), [Bounds(duration_s=2.0)] * 3),
        (Bounds(9, 3.0), [Bounds(3, 1.0)] * 3),
    ],
)
def test_parts_make_up_the_whole(bounds: Bounds, parts: list[Bounds]) -> None:
    assert [bounds.part(number, 3) for number in range(3)] == parts


def test_arrivals_have_their_rate_and_are_no_clockwork() -> None:
    times = list(islice(poisson(50.0, "a"), 5000))
    assert times == list(islice(poisson(50.0, "a"), 5000))
    assert times[-1] == pytest.approx(100, rel=0.1)
    gaps = sorted(later - earlier for earlier, later in pairwise(times))
    assert gaps[0] >= 0
    assert gaps[2500] == pytest.approx(0.0139, rel=0.15)  # ln 2 / rate


SHAPE = WorkloadShape(2, 3, 2, (10, 20), (5, 5), (1, 9))


def test_people_share_their_system_prompt_and_nothing_else() -> None:
    people = list(islice(conversations(SHAPE, "s", 1.0), 6))
    assert len({one.system for one in people}) == 2
    assert len({turn.text for one in people for turn in one.turns}) == 12
    other = list(islice(conversations(SHAPE, "s", 1.0, salt="x"), 6))
    assert [len(one.system.split()) for one in other] == [len(one.system.split()) for one in people]
    assert not {one.system for one in other} & {one.system for one in people}


def test_talks_go_on_when_they_are_answered() -> None:
    talks = Talks(list(islice(conversations(SHAPE, "s", 1.0), 3)), 2, "s", endless=False)
    first, second = talks.next(), talks.next()
    assert first is not None
    assert second is not None
    assert talks.next() is None  # both wait for their answers
    talks.answered(first, "yes")
    again = talks.next()
    assert again is not None
    assert [message["role"] for message in again.messages] == [
        *("system", "user", "assistant", "user")
    ]
    talks.answered(again, "no")  # its last turn: the third comes
    third = talks.next()
    assert third is not None
    assert len(third.messages) == 2
    talks.answered(second, None)  # it failed, and no conversation is left to replace it
    assert talks.next() is None


def test_somebody_always_speaks_when_talks_are_endless() -> None:
    talks = Talks(conversations(SHAPE, "s", 1.0), 1, "s")
    asked = [talks.next() for _ in range(20)]
    assert all(asked)
