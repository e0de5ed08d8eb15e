"""The time that a process was awake: a table of the times at which it looked."""

from __future__ import annotations

import pytest

from dynamo_cli.supervisor.awake import AwakeClock


@pytest.mark.parametrize(
    ("pauses_s", "awake_s"),
    [
        ([1.0, 1.0, 1.0], 3.0),
        ([1.4, 0.6], 2.0),
        ([1.5], 1.5),
        ([1.6], 1.5),
        ([3600.0], 1.5),
        ([1.0, 2.9, 1.0], 3.5),
        ([2.0, 2.0, 2.0], 4.5),
        ([0.0, 0.0], 0.0),
    ],
)
def test_a_pause_of_its_own_does_not_count(pauses_s: list[float], awake_s: float) -> None:
    now_s = 1000.0
    clock = AwakeClock(1.0, lambda: now_s)
    looked_s = clock.now()
    for pause_s in pauses_s:
        now_s += pause_s
        looked_s = clock.look()
    assert looked_s == clock.now() == pytest.approx(awake_s)


def test_between_two_looks_it_goes_on() -> None:
    now_s = 0.0
    clock = AwakeClock(1.0, lambda: now_s)
    told = []
    for now_s in (0.5, 1.0, 2.0, 3.0):  # noqa: B007 - the clock reads it
        told.append(clock.now())
    assert told == [0.5, 1.0, 1.5, 1.5]
    assert clock.look() == 1.5
    now_s = 3.25
    assert clock.now() == 1.75
