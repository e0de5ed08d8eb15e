"""Windows, histograms and totals across restarts, with a clock of the test's own."""

from __future__ import annotations

import pytest

from dynamo_cli.messages.lifecycle import Phase, ProcessState, ProcessTable
from dynamo_cli.messages.request import Usage
from dynamo_cli.messages.telemetry import WorkerStats
from dynamo_cli.topology import Role
from dynamo_cli.units import SECOND_NS
from dynamo_cli.watch.histogram import Histogram
from dynamo_cli.watch.meter import Meter
from dynamo_cli.watch.state import TreeState
from dynamo_cli.watch.timelines import RequestRecord
from dynamo_cli.watch.window import WindowSamples, WindowSum


def test_a_window_sum_forgets_what_is_older() -> None:
    window = WindowSum(window_s=3)
    for second, value in ((0, 1), (0, 2), (1, 4), (2, 8)):
        window.add(value, second * SECOND_NS)
    assert window.total(2 * SECOND_NS) == 15
    assert window.rate(2 * SECOND_NS) == 5
    assert window.total(3 * SECOND_NS) == 12
    assert window.total(9 * SECOND_NS) == 0


@pytest.mark.parametrize(
    ("values", "p50", "p99"),
    [([], None, None), ([7.0], 7.0, 7.0), ([float(n) for n in range(1, 101)], 50.0, 99.0)],
)
def test_percentiles_are_by_nearest_rank(
    values: list[float], p50: float | None, p99: float | None
) -> None:
    window = WindowSamples()
    for value in values:
        window.add(value, 0)
    assert window.percentiles(0, 0.5, 0.99) == [p50, p99]
    assert window.percentiles(60 * SECOND_NS, 0.5) == [None]


def test_a_histogram_counts_by_upper_bound() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 2.5):
        histogram.observe(value)
    assert histogram.cumulative() == [("1.0", 2.0), ("2.0", 3.0), ("+Inf", 4.0)]
    assert histogram.total == 5.5


def test_a_worker_s_totals_survive_its_restart_and_its_load_does_not() -> None:
    tree = TreeState(Meter(), ("tiny",), 0)
    life = WorkerStats(0, 2, 1, 0.5, 100, 40, 300, 20, 0, 9, 0)
    tree.apply(life, 0)
    tree.worker_gone(0)
    (gone,) = tree.snapshot(SECOND_NS, {}, 0).workers
    assert (gone.num_running_reqs, gone.kv_cache_usage) == (0, 0.0)
    assert (gone.prefix_cache_queries_tokens, gone.output_tokens) == (100, 20)
    tree.apply(life, 0)
    (back,) = tree.snapshot(SECOND_NS, {}, 0).workers
    assert (back.num_running_reqs, back.output_tokens, back.hit_ratio) == (2, 40, 0.4)


def test_traffic_counts_what_requests_used() -> None:
    meter = Meter()
    for status, took_ns in ((200, 200_000_000), (400, 100_000_000)):
        meter.ended(RequestRecord("a", "/v1/completions", "tiny", status, 0, took_ns))
    meter.used(Usage(prompt_tokens=10, cached_tokens=8, output_tokens=3), 0)
    traffic = TreeState(meter, ("tiny",), 0).snapshot(0, {}, 0).traffic
    assert (traffic.prompt_tokens, traffic.output_tokens) == (10, 3)
    assert traffic.hit_ratio == 0.8
    assert traffic.requests_per_s == 0.2
    assert sum(meter.e2e.counts) == 1, "what failed says nothing about how long answers take"


def test_a_worker_that_is_no_longer_part_of_the_tree_is_forgotten() -> None:
    def table(*workers: int) -> ProcessTable:
        states = [
            ProcessState(f"worker {worker}", Role.WORKER, worker, Phase.READY, "", 1, 0, 0, 0)
            for worker in workers
        ]
        return ProcessTable(states, serving=True, reason="", workers=len(workers))

    tree = TreeState(Meter(), ("tiny",), 0)
    tree.apply(table(0, 1), 0)
    tree.apply(WorkerStats(1, 2, 1, 0.5, 100, 40, 300, 20, 0, 9, 0), 0)
    tree.worker_gone(1)
    assert [view.worker for view in tree.snapshot(0, {}, 0).workers] == [0, 1]
    tree.apply(table(0), 0)
    snapshot = tree.snapshot(0, {}, 0)
    assert [view.worker for view in snapshot.workers] == [0]
    assert snapshot.target_workers == 1
    tree.apply(table(0, 1), 0)
    assert tree.snapshot(0, {}, 0).workers[1].steps == 0


@pytest.mark.parametrize(
    ("asleep", "ready", "serving"),
    [
        ((True, True), (True, True), False),
        ((True, False), (True, True), True),
        ((True, None), (True, True), True),
        ((True, False), (True, False), False),
        ((False, True), (True, False), True),
        ((True,), (False,), True),
    ],
)
def test_a_server_is_asleep_when_every_worker_that_is_ready_sleeps(
    asleep: tuple[bool | None, ...], ready: tuple[bool, ...], serving: bool
) -> None:
    tree = TreeState(Meter(), ("tiny",), 0)
    states = [
        ProcessState("w", Role.WORKER, index, Phase.READY if one else Phase.BACKOFF, "", 1, 0, 0, 0)
        for index, one in enumerate(ready)
    ]
    for worker, one in enumerate(asleep):
        if one is not None:
            tree.apply(WorkerStats(worker, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, asleep=one), 0)
    tree.apply(ProcessTable(states, serving=True, reason=""), 0)
    assert tree.serving is serving
    assert tree.reason.startswith("asleep") is not serving


def test_only_who_falls_asleep_or_wakes_up_makes_the_frontend_look_at_all_workers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With a thousand workers that send four reports a second it would do little else."""
    looked: list[None] = []
    tree = TreeState(Meter(), ("tiny",), 0)
    monkeypatch.setattr(tree, "_see_who_sleeps", lambda: looked.append(None))
    for asleep in (False, False, True, True, True, False):
        tree.apply(WorkerStats(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, asleep=asleep), 0)
    assert len(looked) == 3
