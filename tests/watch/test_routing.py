"""Routing in the snapshot: totals across restarts, windows, warnings, and the last decisions."""

from __future__ import annotations

import sys
from typing import Any

import msgspec
import pytest

from dynamo_cli.messages.lifecycle import Phase, ProcessState, ProcessTable
from dynamo_cli.messages.request import EngineReady
from dynamo_cli.messages.routing import Candidate, Decisions, Measured, RouterStats, RoutingDecision
from dynamo_cli.messages.telemetry import ProcessorStats
from dynamo_cli.topology import Role
from dynamo_cli.units import SECOND_NS
from dynamo_cli.watch import decisions
from dynamo_cli.watch.decisions import DecisionLog
from dynamo_cli.watch.meter import Meter
from dynamo_cli.watch.schema import HitRatios, RouterView
from dynamo_cli.watch.state import TreeState


def stats(**fields: Any) -> RouterStats:
    plain = RouterStats("kv", {0: 2, 1: 1}, {0: 3, 1: 1}, 1)
    return msgspec.structs.replace(plain, **fields)


def tree_of(*messages: Any) -> TreeState:
    tree = TreeState(Meter(), ("tiny",), 0)
    for message in messages:
        tree.apply(message, 0)
    return tree


def router(tree: TreeState, now_ns: int = 0) -> RouterView:
    view = tree.snapshot(now_ns, {}, 0).router
    assert view is not None
    return view


def test_without_a_router_there_is_no_view() -> None:
    assert tree_of().snapshot(0, {}, 0).router is None


def test_totals_survive_the_router_and_what_it_knew_does_not() -> None:
    life = stats(
        prefill_blocks={0: 5, 1: 0},
        decode_blocks={0: 9, 1: 2},
        index_blocks={0: 40, 1: 30},
        index_entries=60,
        event_blocks={"stored": 70},
        resyncs={"start": 2},
        released={"expired": 1},
        decision_us=[1, 2],
        decision_total_us=25.0,
        silent_workers=[1],
        waiting_requests=4,
    )
    tree = tree_of(life)
    view = router(tree)
    assert [(w.worker, w.decisions, w.prefill_blocks, w.index_blocks) for w in view.workers] == [
        (0, 2, 5, 40),
        (1, 1, 0, 30),
    ]
    assert (view.load_skew_ratio, view.waiting_requests, view.index_entries) == (1.5, 4, 60)
    tree.router_gone()
    gone = router(tree)
    assert (gone.workers, gone.index_entries, gone.silent_workers) == ([], 0, [])
    assert (gone.decisions, gone.event_blocks) == ({0: 2, 1: 1}, {"stored": 70})
    tree.apply(life, 0)
    back = router(tree)
    assert (back.decisions, back.event_blocks) == ({0: 4, 1: 2}, {"stored": 140})
    assert (back.resyncs, back.released) == ({"start": 4}, {"expired": 2})
    assert (back.decision_us, back.decision_total_us, back.refused_sends) == ([2, 4], 50.0, 2)


def test_hit_ratios_are_of_the_last_minute_and_of_all_time() -> None:
    tree = tree_of(stats(prompt_tokens=100, predicted_tokens=10, measured_tokens=5))
    later = 100 * SECOND_NS
    grown = stats(
        prompt_tokens=300,
        predicted_tokens=170,
        measured_tokens=105,
        asked_tokens=400,
        repeated_tokens=360,
    )
    tree.apply(grown, later)
    view = router(tree, later)
    assert view.recent == HitRatios(0.8, 0.5, 0.9)
    assert view.overall == HitRatios(170 / 300, 105 / 300, 0.9)
    assert router(tree, 2 * later).recent == HitRatios(None, None, None)


def test_silence_is_a_warning_that_says_what_to_do() -> None:
    tree = tree_of(
        stats(silent_workers=[0, 1], refused_sends=0), EngineReady(0, [], 1000, 32, 100, 8)
    )
    (warning,) = tree.snapshot(0, {}, 0).warnings
    assert warning.startswith("workers 0, 1 have sent no KV events")
    assert "--no-enable-prefix-caching" in warning
    assert "(32 tokens)" in warning
    tree.apply(stats(refused_sends=0), 0)
    assert tree.snapshot(0, {}, 0).warnings == []


def test_requests_without_a_router_are_summed_and_a_warning_while_it_is_gone() -> None:
    def table(phase: Phase) -> ProcessTable:
        state = ProcessState("router", Role.ROUTER, 0, phase, "", 1, 0, 0, 0)
        return ProcessTable([state], serving=True, reason="")

    tree = tree_of(table(Phase.BACKOFF))
    tree.processor_stats(0, ProcessorStats(3, 0))
    tree.processor_gone(0)
    tree.processor_stats(0, ProcessorStats(2, 0))
    tree.processor_stats(1, ProcessorStats(1, 0))
    snapshot = tree.snapshot(0, {}, 0)
    assert snapshot.unrouted_requests == {0: 5, 1: 1}
    assert "6 requests were placed without it" in snapshot.warnings[0]
    tree.apply(table(Phase.READY), 0)
    assert tree.snapshot(0, {}, 0).warnings == []


# -- decisions -------------------------------------------------------------------------------


def decision(name: str, worker: int = 0, api_id: str = "", candidates: int = 2) -> RoutingDecision:
    return RoutingDecision(
        request_id=name,
        api_id=api_id or f"api-{name}",
        worker=worker,
        policy="kv",
        reason="cost",
        prompt_tokens=100,
        required_blocks=4,
        overlap_blocks=3,
        block_size=32,
        candidates=[Candidate(one, 7.5, 3, {"prefill": 7.5}) for one in range(candidates)],
        margin=2.0,
        waited_us=0.0,
        decision_us=11.0,
        decided_ns=SECOND_NS,
    )


def test_predictions_stand_beside_measurements() -> None:
    log = DecisionLog()
    log.add(Decisions([decision("a"), decision("b", worker=1)], [], 0))
    log.add(Decisions([], [Measured("a", 64), Measured("long gone", 9)], 3))
    b, a = log.views(3 * SECOND_NS)
    assert (a.request_id, a.engine_request_id, a.worker, a.number) == ("api-a", "a", 0, 1)
    assert (a.predicted_tokens, a.measured_tokens, a.age_s) == (96, 64, 2.0)
    assert (b.measured_tokens, b.number, log.dropped) == (None, 2, 3)
    assert [(one.worker, one.cost, one.terms) for one in a.candidates] == [
        (0, 7.5, {"prefill": 7.5}),
        (1, 7.5, {"prefill": 7.5}),
    ]
    (measurement,) = log.measurements(0)
    assert (measurement.engine_request_id, measurement.measured_tokens) == ("a", 64)
    assert log.measurements(measurement.number) == []


def test_what_the_host_cache_holds_is_predicted_too() -> None:
    log = DecisionLog()
    deeper = msgspec.structs.replace(decision("a"), host_blocks=4)
    log.add(Decisions([deeper, msgspec.structs.replace(decision("b"), host_blocks=1)], [], 0))
    b, a = log.views(0)
    assert (a.overlap_blocks, a.host_blocks, a.predicted_tokens) == (3, 4, 128)
    assert (b.overlap_blocks, b.host_blocks, b.predicted_tokens) == (3, 1, 96)


def test_decisions_can_be_chosen() -> None:
    log = DecisionLog()
    log.add(
        Decisions(
            [
                decision(str(n), worker=n % 2, api_id="pair" if n in (4, 5) else "")
                for n in range(8)
            ],
            [],
            0,
        )
    )

    def names(**wanted: Any) -> list[str]:
        return [one.engine_request_id for one in log.views(0, **wanted)]

    assert names() == list("76543210")
    assert names(limit=2) == ["7", "6"]
    assert names(worker=1) == ["7", "5", "3", "1"]
    assert names(request_id="pair") == ["5", "4"]
    assert names(request_id="3") == ["3"]
    assert names(after=6) == ["7", "6"]
    assert names(worker=9) == []


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert decisions.KEPT * 2_500 <= 25_000_000, "bytes of all that are kept, with 64 candidates"
    monkeypatch.setattr(decisions, "KEPT", 100)
    log = DecisionLog()
    for start in range(0, 150, 50):
        news = [decision(str(start + n), candidates=64) for n in range(50)]
        log.add(Decisions(news, [], 0))
    kept = list(log.views(0, limit=1 << 30))
    assert len(kept) == len(log._kept) == len(log._latest) == 100
    assert kept[-1].number == 51
    assert max(sys.getsizeof(one.packed) for one in log._kept) < 2_500
