"""Requests go into the engine between steps, a bounded part at a time."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from dynamo_cli.config import PlacementRule
from dynamo_cli.errors import InvalidRequest
from dynamo_cli.messages.admin import Operate, Operation
from dynamo_cli.messages.prefill import PushJob, QueueState
from dynamo_cli.messages.request import AbortRequests, AddRequest, RequestRefused
from dynamo_cli.messages.telemetry import WorkerStats
from dynamo_cli.units import MS_NS
from dynamo_cli.worker.admission import LEAST_NS, MOST_NS, SHARE, Admission
from dynamo_cli.worker.operations import ABORTED
from tests.worker.support import (
    FRONTEND,
    OTHER_PROCESSOR,
    PREFILL_WORKER,
    PROCESSOR,
    QUEUE,
    Around,
    request,
)


class Bench:
    """An admission whose work takes time: a millisecond for each part of a request."""

    def __init__(self, parts: int = 1) -> None:
        self.now_ns = 0
        self.parts = parts
        self.in_engine: list[str] = []
        self.begun: list[str] = []
        self.admission = Admission(self._begin, lambda: self.now_ns, batch_limits=(4, 100))

    def _begin(self, client: int, message: AddRequest) -> Generator[None]:
        self.begun.append(message.request_id)
        for _ in range(self.parts - 1):
            self.now_ns += MS_NS
            yield
        self.now_ns += MS_NS
        self.in_engine.append(message.request_id)

    def put(self, *names: str, client: int = 0, tokens: int = 10) -> None:
        for name in names:
            self.admission.put(client, request(name, tokens))


def test_while_the_engine_works_a_burst_goes_in_bit_by_bit() -> None:
    bench = Bench()
    bench.put(*"abcde")
    per_step = LEAST_NS // MS_NS
    for step in range(1, 3):
        before_ns = bench.now_ns
        bench.admission.admit(busy=True)
        assert bench.now_ns - before_ns == LEAST_NS
        assert bench.in_engine == list("abcde")[: step * per_step]
    bench.admission.admit(busy=True)
    assert bench.in_engine == list("abcde")
    assert not bench.admission


@pytest.mark.parametrize(("step_ms", "taken_ms"), [(1, 2), (12, 4), (24, 8), (500, 8)])
def test_a_burst_takes_a_share_of_a_step(step_ms: int, taken_ms: int) -> None:
    assert (LEAST_NS, MOST_NS, SHARE) == (2 * MS_NS, 8 * MS_NS, 3)
    bench = Bench()
    bench.put("first")
    bench.admission.admit(busy=True)
    bench.put(*"abcdefghijkl")
    bench.now_ns += (step_ms - 1) * MS_NS  # "first" took one
    bench.admission.admit(busy=True)
    assert len(bench.in_engine) == 1 + taken_ms


def test_the_time_before_the_engine_had_work_is_no_step() -> None:
    bench = Bench()
    bench.admission.admit(busy=False)
    bench.now_ns += 1000 * MS_NS
    bench.put(*"abcdef")
    bench.admission.admit(busy=True)
    assert bench.in_engine == ["a", "b"]


def test_a_long_prompt_goes_in_over_several_steps() -> None:
    bench = Bench(parts=5)
    bench.put("long", "next")
    there = []
    for _ in range(5):
        before_ns = bench.now_ns
        bench.admission.admit(busy=True)
        assert bench.now_ns - before_ns == LEAST_NS
        there.append(len(bench.in_engine))
    assert there == [0, 0, 1, 1, 2]
    assert bench.in_engine == ["long", "next"]


@pytest.mark.parametrize(("tokens", "taken"), [(10, "abcd"), (60, "ab"), (1000, "a")])
def test_an_idle_engine_gets_what_its_first_step_can_run(tokens: int, taken: str) -> None:
    bench = Bench(parts=5)
    bench.put(*"abcdef", tokens=tokens)
    bench.admission.admit(busy=False)
    assert bench.in_engine == list(taken)
    assert len(bench.admission) == 6 - len(taken)


def test_what_waits_can_be_aborted() -> None:
    bench = Bench(parts=9)
    bench.put("a", "c")
    bench.put("b", client=1)
    bench.admission.admit(busy=True)
    assert bench.begun == ["a"]
    bench.admission.abort(["a", "never heard of"])  # in the middle of it
    assert bench.admission.abort_client(1) == ["b"]
    bench.admission.admit(busy=False)
    assert bench.in_engine == ["c"]


# -- in a worker -------------------------------------------------------------------------------


def burst(around: Around, names: str, each_s: float = 0.001) -> None:
    """Requests that are there at once, while the engine runs another one."""
    around[PROCESSOR].send(request("running"))
    around.engine.decode_side.prepare_s = each_s
    for name in names:
        assert around[PROCESSOR].board.send(around.id, request(name))
    around.engine.events.clear()


def test_steps_go_on_during_a_burst(monkeypatch: pytest.MonkeyPatch) -> None:
    with Around(monkeypatch, PROCESSOR) as around:
        burst(around, "abcdef")
        for taken in (2, 4, 6):
            around.turn()
            assert list(around.engine.running) == ["running", *"abcdef"[:taken]]
        assert around.engine.events == ["step", "rest"] * 3


def test_what_is_not_in_the_engine_yet_counts_as_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    with Around(monkeypatch, PROCESSOR, FRONTEND) as around:
        burst(around, "abcdef")
        around.clock.now_s += 1  # a report is due
        around.turn()
        told = around[FRONTEND].heard(WorkerStats)[-1]
        assert (told.num_running_reqs, told.num_waiting_reqs, told.kept_requests) == (3, 4, 4)


def test_what_waits_is_not_run_once_nobody_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with Around(monkeypatch, PROCESSOR, OTHER_PROCESSOR) as around:
        burst(around, "abcdef")
        around.turn()
        assert around[OTHER_PROCESSOR].board.send(around.id, request("other"))
        around[PROCESSOR].send(AbortRequests(["b", "d", "f"]))
        around[PROCESSOR].die()
        around.turn(9)
        assert list(around.engine.running) == ["other"]


def test_what_waits_is_refused_when_the_engine_is_to_sleep(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Around(monkeypatch, PROCESSOR, FRONTEND) as around:
        burst(around, "abc")
        around.turn()
        around[FRONTEND].send(Operate(1, Operation.SLEEP))
        refused = around[PROCESSOR].heard(RequestRefused)
        assert sorted(one.request_id for one in refused) == ["a", "b", "c", "running"]
        assert {one.message for one in refused} == {ABORTED}
        assert around.engine.asleep


def test_an_engine_does_not_sleep_while_requests_wait_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Around(monkeypatch, PROCESSOR, FRONTEND) as around:
        burst(around, "abc")
        around.turn()
        around.engine.running.clear()
        around[FRONTEND].send(Operate(1, Operation.SLEEP, wait=True))
        assert list(around.engine.running) == ["c"]
        assert not around.engine.asleep
        around.engine.running.clear()
        around.turn()
        assert around.engine.asleep


def test_the_loop_does_not_wait_while_requests_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the engine has become idle without them, because the first were refused."""
    with Around(monkeypatch, PROCESSOR) as around:
        around.engine.refuses |= dict.fromkeys("abcd", InvalidRequest("it is wrong"))
        for name in "abcdef":
            assert around[PROCESSOR].board.send(around.id, request(name))
        around.turn()
        assert not around.engine.running
        assert around.process._duty.idle_timeout_s() == 0
        around.turn()
        assert list(around.engine.running) == ["e", "f"]


def test_prompts_are_sent_away_bit_by_bit_too(monkeypatch: pytest.MonkeyPatch) -> None:
    rule = PlacementRule(True, 100, max_prefill_queue_size=9)
    with Around(monkeypatch, PROCESSOR, QUEUE, PREFILL_WORKER, rule=rule) as around:
        around[QUEUE].send(QueueState(0, 1))
        burst(around, "")
        for name in "abc":
            assert around[PROCESSOR].board.send(around.id, request(name, tokens=200))
        pushed = []
        for _ in range(2):
            around.turn()
            pushed.append([one.job_id for one in around[QUEUE].heard(PushJob)])
        assert pushed == [["a", "b"], ["c"]]
