"""Prompts that a worker sends away to be prefilled, and how they come back."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dynamo_cli.config import PlacementRule
from dynamo_cli.errors import DynamoError, InternalError, InvalidRequest
from dynamo_cli.messages.admin import Operate, Operated, Operation
from dynamo_cli.messages.prefill import (
    CancelJob,
    JobFailed,
    PrefillDone,
    PrefilledElsewhere,
    PushJob,
    QueueState,
    ReleaseTransfers,
    SetPlacement,
    TransferStats,
)
from dynamo_cli.messages.request import AbortRequests, RequestRefused
from dynamo_cli.messages.telemetry import WorkerStats
from dynamo_cli.topology import ProcessId, Role
from dynamo_cli.worker.away import DEADLINE_NS, LATE_NS
from dynamo_cli.worker.decode import AWAY_TICK_S
from dynamo_cli.worker.operations import ABORTED
from tests.worker.support import (
    FRONTEND,
    PREFILL_WORKER,
    PROCESSOR,
    QUEUE,
    SECOND_NS,
    Around,
    request,
)

ALWAYS = PlacementRule()
LONG = PlacementRule(conditional=True, max_local_prefill_length=100)
TOO_LATE_S = (DEADLINE_NS + LATE_NS) / SECOND_NS + 1


def around(
    monkeypatch: pytest.MonkeyPatch, rule: PlacementRule = ALWAYS, prefill_workers: int = 1
) -> Around:
    """A worker that may send prompts to a prefill worker."""
    town = Around(monkeypatch, PROCESSOR, FRONTEND, QUEUE, PREFILL_WORKER, rule=rule)
    town[QUEUE].send(QueueState(0, prefill_workers))
    return town


def counted(town: Around) -> TransferStats:
    """The worker's counters as the frontend gets them."""
    town.later(1)
    told: TransferStats = town[FRONTEND].heard(TransferStats)[-1]
    return told


def done(name: str, **params: Any) -> PrefillDone:
    """The prefill worker has the blocks of this job."""
    told = json.dumps({"transfer_id": name} | params).encode()
    return PrefillDone(name, PREFILL_WORKER.index, told, 5, 6)


def test_a_prompt_goes_away_and_comes_back_with_its_blocks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with around(monkeypatch) as town:
        town.engine.decode_side.cached["a"] = 16
        town[PROCESSOR].send(request("a", tokens=50))
        [job] = town[QUEUE].read()
        pushed_ns = town.clock.monotonic_ns()
        assert isinstance(job, PushJob)
        assert (job.job_id, job.prompt_tokens, job.skip_tokens) == ("a", 50, 16)
        assert (job.token_ids, job.frames) == (b"\1\0\0\0" * 50, [b"frame"])
        assert job.deadline_ns == pushed_ns + DEADLINE_NS
        assert not town.engine.running
        town[PREFILL_WORKER].send(done("a", slots=[1]))
        assert town.engine.running == {"a": PROCESSOR.index}
        assert town.engine.decode_side.params["a"] == {"transfer_id": "a", "slots": [1]}
        told = PrefilledElsewhere("a", PREFILL_WORKER.index, pushed_ns, 5, 6)
        assert town[PROCESSOR].read() == [told]
        assert counted(town).placements == {"remote:always": 1}


@pytest.mark.parametrize(
    ("rule", "prefill_workers", "tokens", "cached", "placement"),
    [
        (ALWAYS, 0, 500, 0, "local:no_prefill_worker"),
        (LONG, 1, 100, 0, "local:short"),
        (LONG, 1, 200, 100, "local:short"),
        (PlacementRule(True, 100, 0), 1, 500, 0, "local:queue_full"),
    ],
)
def test_what_is_not_worth_it_stays(
    monkeypatch: pytest.MonkeyPatch,
    rule: PlacementRule,
    prefill_workers: int,
    tokens: int,
    cached: int,
    placement: str,
) -> None:
    with around(monkeypatch, rule, prefill_workers) as town:
        town.engine.decode_side.cached["a"] = cached
        town[PROCESSOR].send(request("a", tokens))
        assert town[QUEUE].read() == []
        assert (list(town.engine.running), town.engine.decode_side.params) == (["a"], {"a": None})
        assert counted(town).placements == {placement: 1}


def test_before_the_queue_has_told_its_state_prompts_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    with Around(monkeypatch, PROCESSOR, FRONTEND, QUEUE, rule=ALWAYS) as town:
        town[PROCESSOR].send(request("a"))
        assert list(town.engine.running) == ["a"]
        assert counted(town).placements == {"local:no_prefill_worker": 1}


def test_what_only_one_engine_can_do_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    with around(monkeypatch) as town:
        town.engine.decode_side.unsuitable.add("a")
        town[PROCESSOR].send(request("a"))
        assert list(town.engine.running) == ["a"]
        assert counted(town).placements == {"local:unsuitable": 1}


def test_what_the_host_cache_holds_is_not_prefilled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with around(monkeypatch, LONG) as town:
        side = town.engine.decode_side
        side.known = {"a": 400, "b": 300}
        town[PROCESSOR].send(request("a", tokens=500))
        town[PROCESSOR].send(request("b", tokens=500))
        assert (side.params, side.forgotten) == ({"a": None}, ["b"])
        [job] = town[QUEUE].read()
        assert (job.job_id, job.skip_tokens) == ("b", 300)
        assert counted(town).placements == {"local:host_cache": 1, "remote:long": 1}


def test_the_host_cache_is_asked_only_about_prompts_that_would_go_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with around(monkeypatch, LONG) as town:
        town.engine.decode_side.known = {"a": None}
        town[PROCESSOR].send(request("a", tokens=100))
        assert list(town.engine.running) == ["a"]
        town[FRONTEND].send(SetPlacement(False, 0, None))
        town.engine.decode_side.known = {"b": None}
        town[PROCESSOR].send(request("b", tokens=500))
        assert [job.job_id for job in town[QUEUE].read()] == ["b"]


@pytest.mark.parametrize(("known", "placement"), [(0, "remote:long"), (400, "local:host_cache")])
def test_a_prompt_waits_for_the_answer_of_the_host_cache(
    monkeypatch: pytest.MonkeyPatch, known: int, placement: str
) -> None:
    with around(monkeypatch, LONG) as town:
        side = town.engine.decode_side
        side.known = {"a": None, "a#2": None}
        town[PROCESSOR].send(request("a", tokens=500))
        town[PROCESSOR].send(request("a#2", tokens=500))
        assert (town[QUEUE].read(), town.engine.running) == ([], {})
        told = counted(town)
        assert (told.placements, told.kept) == ({}, 2)
        assert town.process._duty.idle_timeout_s() == AWAY_TICK_S
        assert town[FRONTEND].read() == []
        side.known = {"a": known, "a#2": known}
        town.turn()
        local = {"a": None, "a#2": None}
        assert side.params == (local if known else {})
        assert side.forgotten == ([] if known else ["a", "a#2"])
        assert len(town[QUEUE].read()) == (not known)
        sibling = {placement: 2} if known else {placement: 1, "local:sibling": 1}
        assert counted(town).placements == sibling


@pytest.mark.parametrize("how", ["abort", "leave", "sleep"])
def test_a_request_can_end_while_the_host_cache_is_asked(
    monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    with around(monkeypatch, LONG) as town:
        side = town.engine.decode_side
        side.known = {"a": None}
        town[PROCESSOR].send(request("a", tokens=500))
        if how == "abort":
            town[PROCESSOR].send(AbortRequests(["a"]))
        elif how == "leave":
            town[PROCESSOR].die()
        else:
            town[FRONTEND].send(Operate(1, Operation.SLEEP))
            assert town[PROCESSOR].read() == [RequestRefused("a", ABORTED, 503)]
        assert side.forgotten == ["a"]
        side.known = {"a": 500}
        town.turn()
        told = counted(town)
        assert (side.params, told.placements, told.away, told.kept) == ({}, {}, 0, 0)
        assert town[QUEUE].read() == []


def test_a_prompt_whose_answer_comes_after_the_queue_is_gone_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with around(monkeypatch, LONG) as town:
        town.engine.decode_side.known = {"a": None}
        town[PROCESSOR].send(request("a", tokens=500))
        town[QUEUE].die()
        assert list(town.engine.running) == ["a"]
        assert counted(town).placements == {"local:no_prefill_worker": 1}


def test_what_cannot_start_once_the_host_cache_has_answered_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with around(monkeypatch, LONG) as town:
        side = town.engine.decode_side
        side.known = {"a": None}
        town[PROCESSOR].send(request("a", tokens=500))
        town.engine.refuses["a"] = InternalError("it is broken")
        side.known = {"a": 500}
        town.turn()
        assert town[PROCESSOR].read() == [RequestRefused("a", "it is broken", 500)]
        assert side.forgotten == ["a"]
        assert counted(town).kept == 0


def test_a_search_of_what_cannot_start_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    with around(monkeypatch, LONG) as town:
        side = town.engine.decode_side
        side.known = {"a": 500}

        def broken(_: Any) -> None:
            raise InternalError("it is broken")

        monkeypatch.setattr(side, "start", broken)
        town[PROCESSOR].send(request("a", tokens=500))
        assert town[PROCESSOR].read() == [RequestRefused("a", "it is broken", 500)]
        assert side.forgotten == ["a"]


def test_a_probe_stays_and_is_no_traffic(monkeypatch: pytest.MonkeyPatch) -> None:
    with around(monkeypatch) as town:
        town[PROCESSOR].send(request("a", probe=True))
        assert list(town.engine.running) == ["a"]
        assert counted(town).placements == {}


def test_what_the_queue_cannot_take_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    with around(monkeypatch) as town:
        link = town.process._switchboard.links[QUEUE]
        with monkeypatch.context() as full:
            full.setattr(link, "send", lambda *_, **__: False)
            town[PROCESSOR].send(request("a"))
        assert list(town.engine.running) == ["a"]
        assert counted(town).placements == {"local:push_refused": 1}


def test_jobs_count_that_the_queue_has_not_told_of_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    with around(monkeypatch, PlacementRule(True, 1, 2)) as town:
        for name in ("a", "b", "c"):
            town[PROCESSOR].send(request(name))
        assert [job.job_id for job in town[QUEUE].read()] == ["a", "b"]
        town[QUEUE].send(QueueState(0, 1))
        town[PROCESSOR].send(request("d"))
        assert [job.job_id for job in town[QUEUE].read()] == ["d"]


def test_the_bounds_can_be_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    with around(monkeypatch, LONG) as town:
        town[FRONTEND].send(SetPlacement(True, 5, None))
        town[PROCESSOR].send(request("a", tokens=6))
        assert [job.job_id for job in town[QUEUE].read()] == ["a"]


def test_a_job_that_failed_is_done_here(monkeypatch: pytest.MonkeyPatch) -> None:
    with around(monkeypatch) as town:
        town[PROCESSOR].send(request("a"))
        town[QUEUE].send(JobFailed("a", "attempts"))
        assert (list(town.engine.running), town.engine.decode_side.params) == (["a"], {"a": None})
        assert counted(town).fallbacks == {"attempts": 1}
        town[QUEUE].send(JobFailed("a", "attempts"))
        assert counted(town).fallbacks == {"attempts": 1}


def test_without_the_queue_all_are_done_here(monkeypatch: pytest.MonkeyPatch) -> None:
    with around(monkeypatch) as town:
        for name in ("a", "b"):
            town[PROCESSOR].send(request(name))
        town[QUEUE].die()
        assert list(town.engine.running) == ["a", "b"]
        town[PROCESSOR].send(request("c"))
        told = counted(town)
        assert told.fallbacks == {"queue_gone": 2}
        assert told.placements["local:no_prefill_worker"] == 1


def test_a_prompt_that_nobody_answers_for_is_done_here(monkeypatch: pytest.MonkeyPatch) -> None:
    with around(monkeypatch) as town:
        town[PROCESSOR].send(request("a"))
        assert town.process._duty.idle_timeout_s() == AWAY_TICK_S
        town.later(TOO_LATE_S - 2)
        assert not town.engine.running
        town.later(2)
        assert list(town.engine.running) == ["a"]
        assert counted(town).fallbacks == {"late": 1}


def test_prompts_that_are_away_are_load(monkeypatch: pytest.MonkeyPatch) -> None:
    with around(monkeypatch) as town:
        town[FRONTEND].read()
        town[PROCESSOR].send(request("a"))
        told = town[FRONTEND].heard(WorkerStats)[-1]
        assert (told.num_away_reqs, told.num_running_reqs, told.idle) == (1, 0, False)


def test_an_abort_cancels_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    with around(monkeypatch) as town:
        town[PROCESSOR].send(request("a"))
        town[PROCESSOR].send(AbortRequests(["a"]))
        assert town[QUEUE].read()[-1] == CancelJob("a")
        town[PREFILL_WORKER].send(done("a"))  # it was on its way
        assert town[PREFILL_WORKER].read() == [ReleaseTransfers(["a"])]
        assert not town.engine.running
        told = counted(town)
        assert (told.away, told.kept) == (0, 0)


def test_a_queue_that_does_not_read_is_told_of_an_abort_when_it_reads_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else a prompt that nobody wants is computed."""
    with around(monkeypatch) as town:
        town[PROCESSOR].send(request("a"))
        town[QUEUE].read()
        with town.full_link(monkeypatch, QUEUE, CancelJob("-" * 1000)):
            town[PROCESSOR].send(AbortRequests(["a"]))
        assert town.heard_late(QUEUE, CancelJob)[-1] == "a"


def test_blocks_are_given_back_to_those_who_hold_them(monkeypatch: pytest.MonkeyPatch) -> None:
    with around(monkeypatch) as town:
        town[PROCESSOR].send(request("a"))
        town[PREFILL_WORKER].send(done("a"))
        assert counted(town).kept == 2  # its family, and who has its blocks
        town.engine.decode_side.started = ["a"]
        town.engine.decode_side.unneeded = ["a"]
        town.turn()
        assert town[PREFILL_WORKER].read() == [ReleaseTransfers(["a"])]
        assert counted(town).kept == 0


def test_blocks_of_two_prefill_workers_are_given_back_to_both(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The lease of the job expired, so that two have computed it: each keeps the blocks."""
    slow = ProcessId(Role.PREFILL_WORKER, PREFILL_WORKER.index + 1)
    with around(monkeypatch) as town:
        town.link(slow)
        town[PROCESSOR].send(request("a"))
        town[PREFILL_WORKER].send(done("a"))
        late = PrefillDone("a", slow.index, b'{"transfer_id": "a again"}', 5, 6)
        town[slow].send(late)
        assert town[slow].read() == [ReleaseTransfers(["a again"])]
        assert town[PREFILL_WORKER].read() == []
        town.engine.decode_side.started = ["a"]
        town.engine.decode_side.unneeded = ["a"]
        town.turn()
        assert town[PREFILL_WORKER].read() == [ReleaseTransfers(["a"])]
        assert counted(town).kept == 0


def test_blocks_that_others_find_by_themselves_are_not_given_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with around(monkeypatch) as town:
        town[PROCESSOR].send(request("a"))
        town[PREFILL_WORKER].send(PrefillDone("a", PREFILL_WORKER.index, b'{"x": 1}', 5, 6))
        town.engine.decode_side.unneeded = ["a"]
        town.turn()
        assert town[PREFILL_WORKER].read() == []


def test_blocks_are_given_back_though_the_engine_has_nothing_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with around(monkeypatch) as town:
        town[PROCESSOR].send(request("a"))
        town[PREFILL_WORKER].send(done("a"))
        town[PROCESSOR].send(AbortRequests(["a"]))
        town.engine.decode_side.unneeded = ["a"]
        assert not town.engine.has_work()
        town.turn()
        assert town[PREFILL_WORKER].heard(ReleaseTransfers) == [ReleaseTransfers(["a"])]
        assert counted(town).kept == 1  # its family, which the next step would forget


def test_a_request_whose_processor_dies_before_its_first_token_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is in the engine with the blocks of a prefill worker, and leads its family until then."""
    with around(monkeypatch) as town:
        town[PROCESSOR].send(request("a", tokens=50))
        town[PREFILL_WORKER].send(done("a"))
        assert "a" in town.engine.running
        town.engine.decode_side.unneeded = ["a"]
        town[PROCESSOR].die()
        assert not town.engine.running
        assert counted(town).kept == 0


def test_a_prompt_for_which_there_is_no_room_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    with around(monkeypatch) as town:
        town.engine.decode_side.room_tokens = 40
        town[PROCESSOR].send(request("a", tokens=41))
        town[PROCESSOR].send(request("b", tokens=40))
        assert counted(town).placements == {"local:no_room": 1, "remote:always": 1}


def test_requests_of_a_lost_processor_are_called_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their siblings are not started first, and the load without them is told."""
    with around(monkeypatch) as town:
        town[PROCESSOR].send(request("a"))
        town[PROCESSOR].send(request("a#2"))
        town[QUEUE].read()
        town[PROCESSOR].die()
        assert town[QUEUE].read() == [CancelJob("a")]
        assert not town.engine.decode_side.params
        *_, load, told = town[FRONTEND].read()
        assert (load.idle, told.away, told.kept) == (True, 0, 0)


def test_siblings_wait_for_the_prompt_of_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    with around(monkeypatch) as town:
        for name in ("a", "a#2", "a#3"):
            town[PROCESSOR].send(request(name))
        assert [job.job_id for job in town[QUEUE].read()] == ["a"]
        town[PREFILL_WORKER].send(done("a"))
        assert list(town.engine.running) == ["a"]
        town.engine.decode_side.started = ["a"]
        town.turn()
        assert list(town.engine.running) == ["a", "a#2", "a#3"]
        assert counted(town).placements == {"remote:always": 1, "local:sibling": 2}


def test_siblings_go_on_when_the_first_is_aborted(monkeypatch: pytest.MonkeyPatch) -> None:
    with around(monkeypatch) as town:
        for name in ("a", "a#2"):
            town[PROCESSOR].send(request(name))
        town[PROCESSOR].send(AbortRequests(["a"]))
        assert list(town.engine.running) == ["a#2"]


def test_siblings_that_are_aborted_together_are_not_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with around(monkeypatch) as town:
        for name in ("a", "a#2", "a#3"):
            town[PROCESSOR].send(request(name))
        town[PROCESSOR].send(AbortRequests(["a", "a#2"]))
        assert town.engine.decode_side.params.keys() == {"a#3"}


def test_siblings_go_on_when_the_first_fails_in_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    with around(monkeypatch) as town:
        for name in ("a", "a#2"):
            town[PROCESSOR].send(request(name))
        town[PREFILL_WORKER].send(done("a"))
        town.engine.failed = [(PROCESSOR.index, "a", InternalError("it is broken"))]
        town.turn()
        assert list(town.engine.running) == ["a#2"]


@pytest.mark.parametrize("error", [InvalidRequest("it is wrong"), InternalError("it is broken")])
def test_what_cannot_start_any_more_is_refused_alone(
    monkeypatch: pytest.MonkeyPatch, error: DynamoError
) -> None:
    """Also where its processor does not read at the moment."""
    with around(monkeypatch) as town:
        for name in ("a", "a#2"):
            town[PROCESSOR].send(request(name))
        town.engine.refuses["a"] = error
        link = town.process._switchboard.links[PROCESSOR]
        take = link.send
        with monkeypatch.context() as full:
            full.setattr(
                link, "send", lambda payload, owed=False: owed and take(payload, owed=True)
            )
            town[QUEUE].die()
        assert list(town.engine.running) == ["a#2"]
        assert town[PROCESSOR].read() == [RequestRefused("a", error.message, error.http_status)]


def test_what_is_wrong_is_not_sent_away(monkeypatch: pytest.MonkeyPatch) -> None:
    with around(monkeypatch) as town:
        town.engine.refuses["a"] = InvalidRequest("it is wrong")
        town[PROCESSOR].send(request("a"))
        assert town[QUEUE].read() == []
        assert town[PROCESSOR].read() == [RequestRefused("a", "it is wrong", 400)]


def test_an_engine_that_is_to_sleep_calls_prompts_back(monkeypatch: pytest.MonkeyPatch) -> None:
    with around(monkeypatch) as town:
        town[PROCESSOR].send(request("a"))
        town[QUEUE].read()
        town[FRONTEND].send(Operate(1, Operation.SLEEP))
        assert town[QUEUE].read() == [CancelJob("a")]
        assert town[PROCESSOR].read() == [RequestRefused("a", ABORTED, 503)]
        assert town.engine.asleep


def test_sleep_that_waits_waits_for_prompts_that_are_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with around(monkeypatch) as town:
        town[PROCESSOR].send(request("a"))
        town[FRONTEND].send(Operate(1, Operation.SLEEP, wait=True))
        town.turn()
        assert not town.engine.asleep
        town[PREFILL_WORKER].send(done("a"))
        assert not town.engine.asleep
        town.engine.running.clear()
        town.turn()
        assert town[FRONTEND].heard(Operated) == [Operated(1, result=True)]


def test_without_a_rule_nothing_of_this_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    with Around(monkeypatch, PROCESSOR, FRONTEND, QUEUE) as town:
        town[QUEUE].send(QueueState(0, 1))
        town[PROCESSOR].send(request("a"))
        assert list(town.engine.running) == ["a"]
        town[QUEUE].die()
        town.later(1)
        assert town[FRONTEND].heard(TransferStats) == []


def test_where_blocks_stay_on_a_machine_only_its_prefill_workers_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    peers = (PROCESSOR, FRONTEND, QUEUE, PREFILL_WORKER)
    with Around(monkeypatch, *peers, rule=ALWAYS, machine=2) as town:
        for number, by_machine in enumerate(({1: (0, 3)}, {1: (0, 3), 2: (0, 1)}, None)):
            town[QUEUE].send(QueueState(0, 4, by_machine))
            town[PROCESSOR].send(request(str(number)))
        assert [(one.job_id, one.machine) for one in town[QUEUE].heard(PushJob)] == [
            ("1", 2),
            ("2", 2),
        ]
        assert counted(town).placements == {"local:no_prefill_worker": 1, "remote:always": 2}


def test_the_queue_of_another_machine_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    peers = (PROCESSOR, FRONTEND, QUEUE, PREFILL_WORKER)
    with Around(monkeypatch, *peers, rule=LONG, machine=2) as town:
        for number, mine in enumerate((0, 9)):
            town[QUEUE].send(QueueState(9, 2, {1: (9 - mine, 1), 2: (mine, 1)}))
            town[PROCESSOR].send(request(str(number), 500))
        assert counted(town).placements == {"remote:long": 1, "local:queue_full": 1}
