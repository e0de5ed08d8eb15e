"""A prefill worker between the prefill queue and the decode workers."""

from __future__ import annotations

import logging

import pytest

from dynamo_cli.errors import DynamoError, InternalError, InvalidRequest
from dynamo_cli.messages.admin import Operate, Operation
from dynamo_cli.messages.lifecycle import Phase, PhaseChange
from dynamo_cli.messages.prefill import (
    DropJob,
    Enlisted,
    JobEnded,
    PrefillDone,
    PullJobs,
    PushJob,
    ReleaseTransfers,
    RunJob,
    TransferStats,
)
from dynamo_cli.topology import ProcessId, Role
from dynamo_cli.worker.prefill import PULL_INTERVAL_S, REFUSED, TRANSFER_TTL_NS
from dynamo_cli.worker.process import REPORT_INTERVAL_S
from tests.worker.support import CAPACITY, FRONTEND, PREFILL_WORKER, QUEUE, WORKER, Around

OTHER_WORKER = ProcessId(Role.WORKER, 0)


def around(monkeypatch: pytest.MonkeyPatch) -> Around:
    return Around(monkeypatch, QUEUE, WORKER, OTHER_WORKER, FRONTEND, prefill_worker=True)


def run(job_id: str, tokens: int = 50, skip_tokens: int = 0, worker: int = WORKER.index) -> RunJob:
    """The queue leases a job to the prefill worker."""
    return RunJob(worker, PushJob(job_id, tokens, skip_tokens, 0, 0, 0, b"", []))


def test_it_says_how_much_room_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few batches ahead in tokens, one in requests."""
    with Around(monkeypatch, prefill_worker=True) as town:
        queue = town.link(QUEUE)
        assert queue.read() == [PullJobs(4, 400, [])]
        queue.send(run("a", tokens=50, skip_tokens=20))
        town.later(PULL_INTERVAL_S)
        assert queue.read() == [PullJobs(3, 370, ["a"])]
        queue.send(run("b", tokens=1000))
        town.later(PULL_INTERVAL_S)
        assert queue.read() == [PullJobs(2, 0, ["a", "b"])]


def test_it_pulls_again_and_again_while_it_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    with around(monkeypatch) as town:
        town[QUEUE].read()
        town.later(PULL_INTERVAL_S / 2)
        assert town[QUEUE].read() == []
        assert town.process._duty.idle_timeout_s() == pytest.approx(REPORT_INTERVAL_S)
        town.later(PULL_INTERVAL_S / 2)
        assert town[QUEUE].read() == [PullJobs(4, 400, [])]


def test_it_is_ready_when_the_queue_has_told_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with around(monkeypatch) as town:
        town.reports()
        town[QUEUE].send(Enlisted())
        town[QUEUE].send(Enlisted())
        assert town.reports() == [PhaseChange(Phase.READY, CAPACITY)]


def test_a_prefill_is_handed_over_before_the_engine_rests(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with around(monkeypatch) as town:
        town[QUEUE].send(run("a"))
        leased_ns = town.clock.monotonic_ns()
        town[QUEUE].read()
        town.engine.events.clear()
        town.engine.prefill_side.end("a~1")
        town.later(1.5)
        assert town.engine.events[:3] == ["step", "hand over a~1", "rest"]
        done = PrefillDone(
            "a",
            PREFILL_WORKER.index,
            b'{"transfer_id": "a~1"}',
            leased_ns,
            town.clock.monotonic_ns(),
        )
        assert town[WORKER].read() == [done]
        assert town[OTHER_WORKER].read() == []
        assert town[QUEUE].read() == [JobEnded("a"), PullJobs(4, 400, [])]
        [told] = town[FRONTEND].heard(TransferStats)[-1:]
        assert (told.prefill_s, told.kept) == ([1.5], 0)
        town.later(REPORT_INTERVAL_S)
        assert town[FRONTEND].read()[-1].prefill_s == []  # each time is told once
        town[WORKER].send(ReleaseTransfers(["a~1"]))
        assert town.engine.prefill_side.released == ["a~1"]


def test_a_prefill_that_failed_is_the_queues_to_repeat(monkeypatch: pytest.MonkeyPatch) -> None:
    with around(monkeypatch) as town:
        town[QUEUE].send(run("a"))
        town[QUEUE].read()
        town.engine.prefill_side.end("a~1", failed="no_room")
        town.turn()
        assert town[WORKER].read() == []
        assert town[QUEUE].read()[0] == JobEnded("a", "no_room")


def test_a_worker_that_does_not_read_is_told_of_a_prefill_when_it_reads_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A regression: it waited for the prefill until half a minute was over."""
    with around(monkeypatch) as town:
        town[QUEUE].send(run("a"))
        town[QUEUE].read()
        town[WORKER].read()
        with town.full_link(monkeypatch, WORKER, PrefillDone("another", 0, b"-" * 1000, 5, 6)):
            town.engine.prefill_side.end("a~1")
            town.turn()
        assert town.engine.prefill_side.released == []
        assert town[QUEUE].read()[0] == JobEnded("a")
        told = town.heard_late(WORKER, PrefillDone)
        assert (told[0], told[-1]) == ("another", "a")


def test_blocks_whose_worker_is_gone_are_released(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = ProcessId(Role.WORKER, 9)
    with around(monkeypatch) as town:
        town[QUEUE].send(run("a", worker=gone.index))
        town[QUEUE].read()
        town.engine.prefill_side.end("a~1")
        town.turn()
        assert town.engine.prefill_side.released == ["a~1"]
        assert town[QUEUE].read()[0] == JobEnded("a")


def test_a_job_that_is_dropped_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with around(monkeypatch) as town:
        town[QUEUE].send(run("a"))
        town[QUEUE].read()
        town[QUEUE].send(DropJob("a"))
        assert "abort a~1" in town.engine.events
        assert town.engine.prefill_side.released == ["a~1"]
        assert town[QUEUE].read() == [PullJobs(4, 400, [])]  # at once: there is room again
        town[QUEUE].send(DropJob("a"))
        assert town.engine.prefill_side.released == ["a~1"]


def test_a_job_that_comes_again_is_another_one_in_the_engine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its lease has expired while this process stood still. The engine may still have copies of the
    first time to end, by whose name it would take the second for the first."""
    with around(monkeypatch) as town:
        town[QUEUE].send(run("a"))
        town[QUEUE].read()
        town[QUEUE].send(DropJob("a"))
        town[QUEUE].send(run("a"))
        assert list(town.engine.running) == ["a~2"]
        town.later(PULL_INTERVAL_S)
        assert town[QUEUE].heard(PullJobs)[-1].held == ["a"]
        town.engine.prefill_side.end("a~1")  # what is left of the first time
        town.turn()
        assert town[WORKER].read() == []
        town.engine.prefill_side.end("a~2")
        town.turn()
        [done] = town[WORKER].read()
        assert (done.job_id, done.params) == ("a", b'{"transfer_id": "a~2"}')
        assert town[QUEUE].heard(JobEnded) == [JobEnded("a")]
        assert town.engine.prefill_side.released == ["a~1", "a~1"]


def test_a_prefill_that_ended_after_it_was_dropped_is_released(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with around(monkeypatch) as town:
        town.engine.running["a~1"] = WORKER.index
        town.engine.prefill_side.end("a~1")
        town.turn()
        assert town.engine.prefill_side.released == ["a~1"]
        assert town[WORKER].read() == []
        assert JobEnded("a") not in town[QUEUE].read()


@pytest.mark.parametrize("error", [InvalidRequest("it is wrong"), InternalError("it is broken")])
def test_what_the_engine_does_not_take_goes_back(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: DynamoError
) -> None:
    with around(monkeypatch) as town:
        town[QUEUE].read()
        town.engine.refuses["a~1"] = error
        with caplog.at_level(logging.WARNING):
            town[QUEUE].send(run("a"))
        assert town[QUEUE].read() == [JobEnded("a", REFUSED)]
        assert f"the prefill job a is refused: {error.message}" in caplog.text
        town.later(PULL_INTERVAL_S)
        assert town[QUEUE].read() == [PullJobs(4, 400, [])]


def test_without_its_decode_worker_a_job_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    with around(monkeypatch) as town:
        town[QUEUE].send(run("a", worker=WORKER.index))
        town[QUEUE].send(run("b", worker=OTHER_WORKER.index))
        town[WORKER].die()
        assert town.engine.prefill_side.owners_gone == [WORKER.index]
        assert list(town.engine.running) == ["b~2"]


def test_without_the_queue_all_jobs_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decode workers have taken them back; the next queue knows nothing of them."""
    with around(monkeypatch) as town:
        for name in ("a", "b"):
            town[QUEUE].send(run(name))
        town[QUEUE].die()
        assert not town.engine.running
        assert town.engine.prefill_side.released == ["a~1", "b~2"]
        town[QUEUE].link()
        assert town[QUEUE].read()[-1] == PullJobs(4, 400, [])


def test_jobs_stay_when_another_peer_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    with around(monkeypatch) as town:
        town[QUEUE].send(run("a"))
        town[FRONTEND].die()
        assert list(town.engine.running) == ["a~1"]
        assert town.engine.prefill_side.owners_gone == []


def test_blocks_that_nobody_takes_are_released_in_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with around(monkeypatch) as town:
        town.later(REPORT_INTERVAL_S)
        expected_ns = town.clock.monotonic_ns() - TRANSFER_TTL_NS
        assert town.engine.prefill_side.expired_before_ns == expected_ns


def test_counters_are_told_every_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    with around(monkeypatch) as town:
        town[QUEUE].send(run("a"))
        town.later(REPORT_INTERVAL_S)
        town[FRONTEND].read()
        town.later(REPORT_INTERVAL_S / 2)
        assert town[FRONTEND].read() == []
        town.later(REPORT_INTERVAL_S / 2)
        [told] = town[FRONTEND].read()
        assert isinstance(told, TransferStats)
        assert (told.prefill, told.kept, told.prefill_s) == (True, 1, [])


def test_an_engine_that_is_to_sleep_gives_its_jobs_back(monkeypatch: pytest.MonkeyPatch) -> None:
    with around(monkeypatch) as town:
        town[QUEUE].send(run("a"))
        town[QUEUE].read()
        town[FRONTEND].send(Operate(1, Operation.SLEEP))
        assert town[QUEUE].read()[0] == JobEnded("a", REFUSED)
        assert not town.engine.running
        assert town.engine.asleep
        town[QUEUE].send(run("b"))
        assert JobEnded("b", REFUSED) in town[QUEUE].read()
        assert not town.engine.running


def test_sleep_that_waits_takes_no_further_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    with around(monkeypatch) as town:
        town[QUEUE].send(run("a"))
        town[FRONTEND].send(Operate(1, Operation.SLEEP, wait=True))
        town[QUEUE].send(run("b"))
        assert JobEnded("b", REFUSED) in town[QUEUE].read()
        assert list(town.engine.running) == ["a~1"]
        town.engine.prefill_side.end("a~1")
        town.turn()
        assert town.engine.asleep
