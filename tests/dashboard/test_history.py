"""The figures of the last hour, and of the last minutes of each worker."""

from __future__ import annotations

import msgspec

from dynamo_cli.dashboard import history
from dynamo_cli.dashboard.history import NO_SAMPLE, Flow, History, WorkerSample, peak_of
from dynamo_cli.watch.schema import HitRatios, Snapshot

from .made import gpu, snapshot, worker


def decided(at_s: float, count: int) -> Snapshot:
    seen = snapshot(at_s=at_s)
    assert seen.router is not None
    router = msgspec.structs.replace(seen.router, decisions={0: count})
    return msgspec.structs.replace(seen, router=router)


def test_rates_are_of_the_last_five_seconds_only() -> None:
    past = History()
    for at_s, count in ((0.0, 0), (1.0, 100), (6.0, 110), (6.5, 111)):
        past.add(decided(at_s, count))
    assert past.flow().decisions == 2.0, "what happened in the first second is over"
    past.add(decided(7.0, 3))
    assert past.flow() == Flow(0.0, 0.0, 0.0, 0.0), "another router counts from 0"
    past.add(decided(2.0, 0))
    assert past.flow() == Flow(), "another server"


def test_each_figure_is_taken_from_its_place() -> None:
    seen = snapshot(at_s=3.0, prefill_workers=1)
    assert seen.router is not None
    views = [gpu(0, utilization=0.5), gpu(1, utilization=0.9), gpu(2, utilization=None)]
    recent = HitRatios(measured=None, estimated=0.3, limit=0.4)
    past = History()
    past.add(
        msgspec.structs.replace(
            seen,
            gpus=views,
            router=msgspec.structs.replace(seen.router, recent=recent, event_blocks_per_s=7.0),
            traffic=msgspec.structs.replace(seen.traffic, hit_ratio=0.2, in_flight=9),
        )
    )
    (one,) = past.samples()
    assert one.gpu_utilization == 0.7
    assert (one.hit_measured, one.hit_estimated, one.hit_limit) == (0.2, 0.3, 0.4)
    assert (one.event_blocks_per_s, one.in_flight, one.waiting) == (7.0, 9, 2)
    assert (one.depth_jobs, one.oldest_age_s) == (2, 0.5)


def test_workers_have_samples_of_the_last_minutes_until_they_are_gone() -> None:
    past = History()
    for second in range(history.WORKER_KEPT + 20):
        past.add(snapshot(2, at_s=second))
    assert {name: len(one) for name, one in past.workers().items()} == {
        0: history.WORKER_KEPT,
        1: history.WORKER_KEPT,
    }
    assert len(past.samples()) == history.WORKER_KEPT + 20
    past.add(snapshot(1, at_s=1000.0))
    assert past.workers().keys() == {0}
    past.add(snapshot(1, at_s=0.0))
    assert len(past.workers()[0]) == 1, "another server"


def test_the_peak_has_the_highest_of_each_figure() -> None:
    one = WorkerSample(1, 9, 0.5, 10.0, None)
    other = WorkerSample(2, 3, 0.2, 20.0, 0.4)
    assert peak_of([one, other]) == WorkerSample(2, 9, 0.5, 20.0, 0.4)
    assert peak_of([one]).ttft_p95_s is None
    assert peak_of([]) == NO_SAMPLE
    view = worker(0, num_running_reqs=4, num_waiting_reqs=6, kv_cache_usage=0.7, ttft_p95_s=0.3)
    past = History()
    past.add(msgspec.structs.replace(snapshot(1), workers=[view]))
    (sample,) = past.workers()[0]
    assert sample == WorkerSample(4, 6, 0.7, view.output_tokens_per_s, 0.3)
