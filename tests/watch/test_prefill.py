"""Disaggregation in the snapshot: totals across restarts, and current figures."""

from __future__ import annotations

from typing import Any

import msgspec

from dynamo_cli.messages.prefill import PrefillQueueStats, TransferStats
from dynamo_cli.watch.meter import Meter
from dynamo_cli.watch.schema import PrefillView
from dynamo_cli.watch.state import TreeState


def queue(**fields: Any) -> PrefillQueueStats:
    plain = PrefillQueueStats(2, 300, 1, 100, 0.5, False, 9, {"done": 6}, {}, {}, [0.1, 0.3], 0)
    return msgspec.structs.replace(plain, **fields)


def worker(index: int = 0, *, prefill: bool = False, **fields: Any) -> TransferStats:
    plain = TransferStats(prefill, index, {}, {}, 0, {}, {}, {}, {}, [])
    return msgspec.structs.replace(plain, **fields)


def view(tree: TreeState) -> PrefillView:
    found = tree.snapshot(0, {}, 0).prefill
    assert found is not None
    return found


def tree_of(*messages: Any) -> TreeState:
    tree = TreeState(Meter(), ("tiny",), 0)
    for message in messages:
        tree.apply(message, 0)
    return tree


def test_without_disaggregation_there_is_no_view() -> None:
    assert tree_of().snapshot(0, {}, 0).prefill is None


def test_the_queue_s_totals_survive_it_and_its_depth_does_not() -> None:
    tree = tree_of(queue())
    assert (view(tree).depth_jobs, view(tree).taken, view(tree).ended) == (2, 9, {"done": 6})
    assert (view(tree).queue_time_p50_s, view(tree).queue_time_p95_s) == (0.1, 0.3)
    tree.prefill.queue_gone()
    assert (view(tree).depth_jobs, view(tree).taken, view(tree).ended) == (0, 9, {"done": 6})
    tree.apply(queue(taken=1, ended={"done": 1, "deadline": 2}), 0)
    assert (view(tree).taken, view(tree).ended) == (10, {"done": 7, "deadline": 2})


def test_workers_add_up_over_lives() -> None:
    sent = worker(placements={"remote:always": 3}, fallbacks={"no_room": 1}, away=2)
    took = worker(prefill=True, copies={"save": 4}, nbytes={"save": 400}, copy_s={"save": 0.5})
    took = msgspec.structs.replace(took, prefill_s=[0.2])
    tree = tree_of(sent, took, worker(1, placements={"remote:always": 1, "local:short": 5}, away=1))
    seen = view(tree)
    assert seen.placements == {"remote:always": 4, "local:short": 5}
    assert (seen.fallbacks, seen.away, seen.prefill_time_p50_s) == ({"no_room": 1}, 3, 0.2)
    tree.worker_gone(0)
    tree.prefill.worker_gone(0, prefill=True)
    assert view(tree).away == 1
    tree.apply(took, 0)
    assert (view(tree).copies, view(tree).nbytes) == ({"save": 8}, {"save": 800})
    assert view(tree).copy_s == {"save": 1.0}
    assert view(tree).placements["remote:always"] == 4
