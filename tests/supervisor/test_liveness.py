"""Who counts as stalled: a table of time, answers and what the kernel says."""

from __future__ import annotations

import pytest

from dynamo_cli.config import DEFAULT_WORKER_TIMEOUT_S
from dynamo_cli.host.activity import Activity
from dynamo_cli.supervisor.liveness import Liveness
from dynamo_cli.topology import CLUSTER, HOST_CACHE, QUEUE, ROUTER, ProcessId, Role

WORKER = ProcessId(Role.WORKER, 0)
TIMEOUT_S = 20


class Clock:
    """A child that is looked at once a second.

    Args:
        cores: cores that it uses.
        stopped: whether a signal has stopped it.
    """

    def __init__(self, *, cores: float = 0.0, stopped: bool = False, timeout_s: float = TIMEOUT_S):
        self.now_s = 100.0
        self.process, self.pid = WORKER, 1
        self.cores, self.stopped = cores, stopped
        self.liveness = Liveness(timeout_s, self._activity)

    def _activity(self, pid: int) -> Activity:
        assert pid == self.pid
        return Activity(self.stopped, self.cores * self.now_s)

    def stalls_after_s(self, patience_s: float) -> float | None:
        """Return after how many seconds without an answer it counts as stalled."""
        begun_s = self.now_s
        while self.now_s - begun_s <= patience_s:
            _, stalled = self.liveness.look([(self.process, self.pid)], self.now_s)
            if stalled:
                assert stalled[0].process == self.process
                return self.now_s - begun_s
            self.now_s += 1
        return None


def test_a_child_that_answers_is_asked_again_and_never_stalls() -> None:
    clock = Clock()
    for _ in range(100):
        ask, stalled = clock.liveness.look([(WORKER, 1)], clock.now_s)
        assert (ask, stalled) == ([WORKER], [])
        clock.liveness.answered(WORKER)
        clock.now_s += 1


@pytest.mark.parametrize(
    ("cores", "stopped", "after_s"),
    [(0.0, False, 20), (0.0, True, 20), (0.01, False, 20), (1.0, False, 200), (1.0, True, 20)],
    ids=["hangs", "stopped", "hardly computes", "computes", "its child computes"],
)
def test_one_that_does_not_answer(cores: float, stopped: bool, after_s: float) -> None:
    assert Clock(cores=cores, stopped=stopped).stalls_after_s(1000) == after_s


@pytest.mark.parametrize("process", [ROUTER, HOST_CACHE, QUEUE])
def test_what_has_no_long_steps_gets_less_time(process: ProcessId) -> None:
    clock = Clock()
    clock.process = process
    assert clock.stalls_after_s(1000) == 5


def test_a_new_life_begins_anew() -> None:
    clock = Clock()
    assert clock.stalls_after_s(15) is None
    clock.pid = 2
    assert clock.stalls_after_s(1000) == 20


@pytest.mark.parametrize("pause_s", [3.0, 3600.0])
def test_when_the_supervisor_stood_still_itself_nobody_is_to_blame(pause_s: float) -> None:
    clock = Clock()
    assert clock.stalls_after_s(15) is None
    clock.now_s += pause_s
    assert clock.stalls_after_s(1000) == 4  # the rest of its time


def test_a_slow_machine_gives_each_more_time() -> None:
    clock = Clock()
    clock.process = ROUTER
    looks = 0
    while not clock.liveness.look([(ROUTER, 1)], clock.now_s)[1]:
        clock.now_s += 3
        looks += 1
    assert looks == 4


def test_a_timeout_of_zero_watches_only_what_nodes_depend_on() -> None:
    engine = Clock(timeout_s=0)
    assert engine.stalls_after_s(1000) is None
    router = Clock(timeout_s=0)
    router.process = ROUTER
    assert router.stalls_after_s(1000) is None
    for process, after_s in ((CLUSTER, DEFAULT_WORKER_TIMEOUT_S), (ProcessId(Role.RELAY, 3), 5)):
        clock = Clock(timeout_s=0)
        clock.process = process
        assert clock.liveness.interval_s == 1
        assert clock.stalls_after_s(1000) == after_s


@pytest.mark.parametrize("timeout_s", [0, 30])
def test_a_relay_that_hangs_is_found_as_soon_as_a_router(timeout_s: float) -> None:
    clock = Clock(timeout_s=timeout_s)
    clock.process = ProcessId(Role.RELAY, 3)
    assert clock.stalls_after_s(1000) == 5


def test_one_that_computes_and_then_hangs_is_found_soon() -> None:
    clock = Clock(cores=1.0)
    assert clock.stalls_after_s(45) is None
    used_s = clock.cores * clock.now_s
    clock.liveness._activity = lambda pid: Activity(False, used_s)  # it computes no more
    assert clock.stalls_after_s(1000) in range(TIMEOUT_S // 2, TIMEOUT_S + 1)
