"""Disaggregation in the snapshot: totals over lives, and what is of now only."""

from __future__ import annotations

from typing import Any

import msgspec

from dynamo_cli.messages.prefill import PrefillQueueStats, TransferStats
from dynamo_cli.watch.meter import Meter
from dynamo_cli.watch.schema import PrefillView
from dynamo_cli.watch.state import Fold


def queue(**fields: Any) -> PrefillQueueStats:
    plain = PrefillQueueStats(2, 300, 1, 100, 0.5, False, 9, {"done": 6}, {}, {}, [0.1, 0.3], 0)
    return msgspec.structs.replace(plain, **fields)


def worker(index: int = 0, *, prefill: bool = False, **fields: Any) -> TransferStats:
    plain = TransferStats(prefill, index, {}, {}, 0, {}, {}, {}, {}, 0, 0, [])
    return msgspec.structs.replace(plain, **fields)


def view(fold: Fold) -> PrefillView:
    found = fold.snapshot(0, {}, 0).prefill
    assert found is not None
    return found


def fold_of(*messages: Any) -> Fold:
    fold = Fold(Meter(), ("tiny",), 0)
    for message in messages:
        fold.apply(message, 0)
    return fold


def test_without_disaggregation_there_is_no_view() -> None:
    assert fold_of().snapshot(0, {}, 0).prefill is None


def test_the_queue_s_totals_survive_it_and_its_depth_does_not() -> None:
    fold = fold_of(queue())
    assert (view(fold).depth_jobs, view(fold).taken, view(fold).ended) == (2, 9, {"done": 6})
    assert (view(fold).queue_time_p50_s, view(fold).queue_time_p95_s) == (0.1, 0.3)
    fold.prefill.queue_gone()
    assert (view(fold).depth_jobs, view(fold).taken, view(fold).ended) == (0, 9, {"done": 6})
    fold.apply(queue(taken=1, ended={"done": 1, "deadline": 2}), 0)
    assert (view(fold).taken, view(fold).ended) == (10, {"done": 7, "deadline": 2})


def test_workers_add_up_over_lives() -> None:
    sent = worker(placements={"remote:always": 3}, fallbacks={"no_room": 1}, away=2)
    took = worker(prefill=True, copies={"save": 4}, nbytes={"save": 400}, copy_s={"save": 0.5})
    took = msgspec.structs.replace(took, arena_used_bytes=64, arena_bytes=128, prefill_s=[0.2])
    fold = fold_of(sent, took, worker(1, placements={"remote:always": 1, "local:short": 5}, away=1))
    seen = view(fold)
    assert seen.placements == {"remote:always": 4, "local:short": 5}
    assert (seen.fallbacks, seen.away, seen.prefill_time_p50_s) == ({"no_room": 1}, 3, 0.2)
    assert [(one.worker, one.arena_used_bytes, one.arena_bytes) for one in seen.workers] == [
        (0, 64, 128)
    ]
    fold.worker_gone(0)
    fold.prefill.worker_gone(0, prefill=True)
    assert (view(fold).away, view(fold).workers) == (1, [])
    fold.apply(took, 0)
    assert (view(fold).copies, view(fold).nbytes) == ({"save": 8}, {"save": 800})
    assert view(fold).copy_s == {"save": 1.0}
    assert view(fold).placements["remote:always"] == 4


def test_an_alarm_says_what_to_do() -> None:
    fold = fold_of(queue(alarm=True, oldest_age_s=7.25))
    (warning,) = fold.snapshot(0, {}, 0).warnings
    assert "oldest of 2 prefill jobs has waited for 7.2 s" in warning
    assert "--conditional-disagg" in warning
