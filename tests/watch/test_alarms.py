"""Alarms: when each is raised, when it goes, and that it says what to do."""

from __future__ import annotations

import pytest

from dynamo_cli.messages.lifecycle import Phase, ProcessState, ProcessTable
from dynamo_cli.messages.prefill import PrefillQueueStats
from dynamo_cli.messages.routing import RouterStats
from dynamo_cli.messages.telemetry import WorkerStats
from dynamo_cli.topology import Role
from dynamo_cli.units import SECOND_NS
from dynamo_cli.watch.meter import Meter
from dynamo_cli.watch.schema import AlarmView
from dynamo_cli.watch.state import TreeState


def tree() -> TreeState:
    return TreeState(Meter(), ("tiny",), 0)


def alarms(tree: TreeState, at_s: float, refused: int = 0) -> list[AlarmView]:
    return tree.snapshot(int(at_s * SECOND_NS), {}, refused).alarms


def ledger(*active: int, policy: str = "kv") -> RouterStats:
    return RouterStats(policy, {}, dict(enumerate(active)), 0)


def worker_state(phase: Phase, restarts: int, started_s: int, reason: str = "") -> ProcessState:
    return ProcessState(
        "worker 0", Role.WORKER, 0, phase, reason, 1, 0, started_s * SECOND_NS, restarts
    )


@pytest.mark.parametrize(
    ("active", "skewed"),
    [
        ((9, 1), True),
        ((8, 0, 0), True),
        ((5, 1), False),  # only 4 more
        ((20, 14, 14), False),  # more, but nowhere near twice
        ((9,), False),
        ((0, 0), False),
    ],
)
def test_load_is_skewed_when_one_has_much_more_for_a_while(
    active: tuple[int, ...], skewed: bool
) -> None:
    state = tree()
    state.apply(ledger(*active), 10 * SECOND_NS)
    assert alarms(state, 12) == []
    found = alarms(state, 16)
    assert [alarm.kind for alarm in found] == (["skew"] if skewed else [])
    state.apply(ledger(1, 1), 17 * SECOND_NS)
    assert alarms(state, 18) == []


def test_a_skew_names_the_worker_and_what_to_do() -> None:
    state = tree()
    state.apply(ledger(1, 9), 0)
    (alarm,) = alarms(state, 7)
    assert alarm.text == "worker 1 has 9 of 10 active requests, for 7 s"
    assert "--kv-overlap-weight" in alarm.advice


@pytest.mark.parametrize(
    ("policy", "helps"),
    [
        ("kv", "--kv-overlap-weight"),
        ("least-loaded", "started again"),
        ("random", "--router least-loaded or kv"),
        ("round-robin", "--router least-loaded or kv"),
    ],
)
def test_what_helps_against_a_skew_depends_on_the_policy(policy: str, helps: str) -> None:
    state = tree()
    state.apply(ledger(1, 9, policy=policy), 0)
    (alarm,) = alarms(state, 7)
    assert helps in alarm.advice


@pytest.mark.parametrize(
    ("phase", "helps"), [(Phase.READY, "--prefill-workers"), (Phase.BACKOFF, "the log says why")]
)
def test_more_prefill_workers_do_not_help_where_none_is_up(phase: Phase, helps: str) -> None:
    state = tree()
    role = Role.PREFILL_WORKER
    table = [ProcessState("prefill worker 0", role, 0, phase, "", 1, 0, 0, 0)]
    state.apply(ProcessTable(table, True, ""), 0)
    state.apply(PrefillQueueStats(2, 900, 1, 400, 9.5, True, 7, {}, {}, {}, [], 0), 0)
    (alarm,) = alarms(state, 1)
    assert alarm.text == "the oldest of 2 prefill jobs has waited for 9.5 s"
    assert helps in alarm.advice


def test_a_restart_is_told_with_its_reason_for_ten_minutes() -> None:
    state = tree()
    died = worker_state(Phase.BACKOFF, 0, 0, "SIGKILL: killed from outside")
    state.apply(ProcessTable([died], True, ""), 0)
    state.apply(ProcessTable([worker_state(Phase.READY, 1, 100)], True, ""), 0)
    (alarm,) = alarms(state, 130)
    assert alarm.text == "worker 0 was started again, 30 s ago (SIGKILL)"
    assert "memory" in alarm.advice
    assert alarms(state, 701) == []


def test_memory_is_not_blamed_for_a_process_that_the_supervisor_ended() -> None:
    state = tree()
    died = worker_state(Phase.BACKOFF, 0, 0, "stalled: no sign of life for 60 s")
    state.apply(ProcessTable([died], True, ""), 0)
    state.apply(ProcessTable([worker_state(Phase.READY, 1, 100)], True, ""), 0)
    (alarm,) = alarms(state, 130)
    assert alarm.text == "worker 0 was started again, 30 s ago (stalled)"
    assert "memory" not in alarm.advice


def test_refused_sends_are_told_for_a_minute() -> None:
    state = tree()
    assert alarms(state, 1, refused=0) == []
    (alarm,) = alarms(state, 2, refused=3)
    assert alarm.text == "full links refused 3 messages in the last minute"
    assert alarms(state, 2.5, refused=3) == [alarm]
    assert alarms(state, 70, refused=3) == []


def test_rates_of_a_worker_are_of_the_last_seconds_and_survive_it() -> None:
    def stats(prompt: int, output: int, queries: int, hits: int) -> WorkerStats:
        return WorkerStats(0, 1, 0, 0.5, queries, hits, prompt, output, 0, 1, 0)

    state = tree()
    state.apply(stats(1000, 50, 1000, 250), 0)
    state.worker_gone(0)
    state.apply(stats(200, 50, 1000, 750), SECOND_NS)
    seen = state.snapshot(2 * SECOND_NS, {}, 0)
    (view,) = seen.workers
    assert (view.prompt_tokens_per_s, view.output_tokens_per_s) == (120.0, 10.0)
    assert seen.traffic.prompt_tokens_per_s == 120.0  # although no request has ended
    assert view.recent_hit_ratio == 0.5
    (later,) = state.snapshot(100 * SECOND_NS, {}, 0).workers
    assert (later.prompt_tokens_per_s, later.recent_hit_ratio) == (0.0, None)
    assert later.hit_ratio == 0.5
