"""The line that the log has of each death."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dynamo_cli.messages.lifecycle import Phase, Rescued
from dynamo_cli.supervisor.death_log import PATIENCE_S, Death, DeathLog, reporters
from dynamo_cli.topology import FRONTEND, ROUTER, ZYGOTE, ProcessId, Role

WORKER, OTHER_WORKER = ProcessId(Role.WORKER, 0), ProcessId(Role.WORKER, 1)
A, B = ProcessId(Role.PROCESSOR, 0), ProcessId(Role.PROCESSOR, 1)


class Log:
    """The lines that were written, and the functions that are to be called later."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.later: list[Callable[[], None]] = []
        self.deaths = DeathLog(
            lambda level, text: self.lines.append(f"{level} {text}"), self._later
        )

    def _later(self, delay_s: float, call: Callable[[], None]) -> None:
        assert delay_s == PATIENCE_S
        self.later.append(call)


def death(*awaited: ProcessId, process: ProcessId = WORKER) -> Death:
    return Death(process, 7, "SIGKILL", "WARNING", "it starts again at once", [], set(awaited))


@pytest.mark.parametrize(
    ("lost", "expected"),
    [(WORKER, {A}), (A, {FRONTEND}), (B, {FRONTEND}), (FRONTEND, set()), (ROUTER, set())],
)
def test_who_says_what_became_of_requests(lost: ProcessId, expected: set[ProcessId]) -> None:
    living = [(FRONTEND, Phase.READY), (A, Phase.READY), (B, Phase.LOADING), (ZYGOTE, Phase.READY)]
    assert reporters(lost, living) == expected


def test_the_numbers_of_all_processors_make_one_line() -> None:
    log = Log()
    log.deaths.add(death(A, B))
    log.deaths.rescued(A, Rescued("worker 0", 12, 0))
    log.deaths.rescued(A, Rescued("worker 0", 12, 0))  # told twice, counted once
    log.deaths.rescued(B, Rescued("worker 1", 9, 9))  # of another process
    assert log.lines == []
    log.deaths.rescued(B, Rescued("worker 0", 5, 1))
    for call in log.later:
        call()
    assert log.lines == [
        "WARNING worker 0 (pid 7) died: SIGKILL; 17 requests moved, 1 failed; "
        "it starts again at once"
    ]


def test_who_died_too_is_not_waited_for() -> None:
    log = Log()
    log.deaths.add(death(A, B))
    log.deaths.rescued(A, Rescued("worker 0", 1, 0))
    log.deaths.ended(B)
    assert log.lines == [
        "WARNING worker 0 (pid 7) died: SIGKILL; 1 request moved, 0 failed; it starts again at once"
    ]


def test_nobody_has_numbers() -> None:
    log = Log()
    log.deaths.add(death(A))
    assert log.lines == []
    for call in log.later:
        call()
    log.deaths.rescued(A, Rescued("worker 0", 1, 0))  # too late
    assert log.lines == ["WARNING worker 0 (pid 7) died: SIGKILL; it starts again at once"]


def test_a_process_of_which_nobody_tells_is_logged_at_once() -> None:
    log = Log()
    log.deaths.add(death(process=ROUTER))
    assert log.lines == ["WARNING router (pid 7) died: SIGKILL; it starts again at once"]


def test_two_deaths_of_one_process_each_get_their_numbers() -> None:
    log = Log()
    log.deaths.add(death(A))
    log.deaths.add(death(A))
    log.deaths.add(death(A, process=OTHER_WORKER))
    log.deaths.rescued(A, Rescued("worker 0", 1, 0))
    log.deaths.rescued(A, Rescued("worker 0", 2, 0))
    assert [line.split("; ")[1] for line in log.lines] == [
        "1 request moved, 0 failed",
        "2 requests moved, 0 failed",
    ]
    log.deaths.flush()
    assert log.lines[2].startswith("WARNING worker 1")


def test_last_words_and_reasons_are_shown() -> None:
    told = Death(WORKER, 0, "no memory.", "ERROR", last_words=["one", "two"])
    assert told.text == "worker 0 died: no memory; its last log lines:\n    one\n    two"
