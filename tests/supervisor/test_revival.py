"""When a child that died is started again, and when it is given up."""

from __future__ import annotations

import signal

import pytest

from dynamo_cli.messages.lifecycle import Phase
from dynamo_cli.serve_config import RestartPolicy
from dynamo_cli.supervisor.revival import NO_ZYGOTE, WAITS, Restarts, next_step, was_killed

POLICY = RestartPolicy(limit=3, first_delay_s=1, settled_s=60)
Life = tuple[float | None, bool]
"""For how long it was ready, and whether it was killed from outside."""

NEVER_READY: Life = (None, False)
KILLED_IN_ITS_START: Life = (None, True)
CRASHED_SOON: Life = (59.0, False)
CRASHED_LATE: Life = (60.0, False)
KILLED: Life = (0.1, True)


@pytest.mark.parametrize(
    ("lives", "delays"),
    [
        ([NEVER_READY] * 5, [1, 2, 4, None, None]),
        ([KILLED_IN_ITS_START] * 4, [1, 2, 4, None]),
        ([CRASHED_SOON] * 4, [1, 2, 4, None]),
        ([CRASHED_LATE] * 9, [0] * 9),
        ([KILLED] * 100, [0] * 100),
        ([NEVER_READY, CRASHED_SOON, KILLED, NEVER_READY], [1, 2, 0, 1]),
        ([NEVER_READY, CRASHED_SOON, CRASHED_LATE, NEVER_READY], [1, 2, 0, 1]),
    ],
)
def test_only_failed_lives_in_a_row_count(lives: list[Life], delays: list[float | None]) -> None:
    restarts = Restarts(POLICY)
    assert [restarts.next_delay_s(ready, killed=killed) for ready, killed in lives] == delays
    assert restarts.count == sum(delay is not None for delay in delays)


@pytest.mark.parametrize(
    ("exit_code", "killed"),
    [
        (-signal.SIGKILL, True),
        (-signal.SIGTERM, True),
        (-signal.SIGSEGV, False),
        (-signal.SIGABRT, False),
        (0, False),
        (70, False),
        (None, False),
    ],
)
def test_who_was_killed_from_outside(exit_code: int | None, killed: bool) -> None:
    assert was_killed(exit_code) is killed


@pytest.mark.parametrize(
    ("delay_s", "zygote", "phase", "reason", "then", "level"),
    [
        (0.0, Phase.READY, Phase.BACKOFF, "SIGKILL", "it starts again at once", "WARNING"),
        (0.5, Phase.READY, Phase.BACKOFF, "SIGKILL", "it starts again in 0.5 s", "WARNING"),
        (
            0.0,
            Phase.IMPORTING,
            Phase.BACKOFF,
            WAITS,
            "it starts again when there is a new zygote",
            "WARNING",
        ),
        (
            0.0,
            Phase.FAILED,
            Phase.FAILED,
            f"SIGKILL, and {NO_ZYGOTE}",
            f"it is given up: {NO_ZYGOTE}",
            "ERROR",
        ),
        (
            None,
            Phase.IMPORTING,
            Phase.FAILED,
            "SIGKILL, and 3 restarts in a row did not help",
            "it is given up: 3 restarts in a row did not help",
            "ERROR",
        ),
    ],
)
def test_what_follows_a_death(
    delay_s: float | None, zygote: Phase, phase: Phase, reason: str, then: str, level: str
) -> None:
    step = next_step("SIGKILL", delay_s, 3, zygote)
    assert (step.phase, step.reason, step.then, step.level) == (phase, reason, then, level)
    assert step.delay_s == (delay_s if zygote is Phase.READY else None)
