"""The odd one out: a difference that users notice, in enough samples, of one worker only."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from dynamo_cli.watch.judge import Judge
from dynamo_cli.watch.oddities import HOLD_S, oddities
from dynamo_cli.watch.schema import Snapshot, WorkerView
from tests.dashboard.made import snapshot, worker


def slow(index: int, p95_s: float, p50_s: float = 0.0, samples: int = 50) -> WorkerView:
    return worker(index, ttft_p95_s=p95_s, ttft_p50_s=p50_s or p95_s / 2, ttft_samples=samples)


def cold(index: int, ratio: float | None, tokens: int = 50_000) -> WorkerView:
    return worker(index, recent_hit_ratio=ratio, recent_queries_tokens=tokens)


def seen(*workers: WorkerView, at_s: float = 10.0) -> Snapshot:
    return msgspec.structs.replace(snapshot(), workers=list(workers), uptime_s=at_s)


def with_running(*numbers: int) -> list[WorkerView]:
    return [worker(place, num_running_reqs=one) for place, one in enumerate(numbers)]


@pytest.mark.parametrize(
    ("workers", "says"),
    [
        ([worker(0, num_running_reqs=9)], []),
        (with_running(4, 4, 12), ["worker 2: running 3 times the others"]),
        (with_running(1, 1, 8), []),  # only seven more
        (with_running(0, 8), ["worker 1: running 8, the others none"]),
        (
            [worker(0, num_waiting_reqs=8), worker(1, num_waiting_reqs=1)],
            ["worker 0: waiting 8 times the others"],
        ),
        ([slow(0, 0.4), slow(1, 0.1)], ["worker 0: TTFT p95 4.0 times the others"]),
        ([slow(0, 0.4, samples=19), slow(1, 0.1)], []),
        ([slow(0, 0.4), slow(1, 0.1, samples=19)], []),
        ([slow(0, 0.4, p50_s=0.05), slow(1, 0.1)], []),  # a few long ones, and the rest as fast
        ([slow(0, 0.09), slow(1, 0.02)], []),  # nobody notices 70 ms
        ([cold(0, 0.1), cold(1, 0.6)], ["worker 0: hit rate 10%, the others 60%"]),
        ([cold(0, 0.1, tokens=900), cold(1, 0.6)], []),
        ([cold(0, None), cold(1, 0.6)], []),
        # Half of eight have it: it is not about one of them.
        ([*(slow(place, 0.4) for place in range(4)), *(slow(place, 0.1) for place in (4, 5))], []),
        (with_running(12, 12, 12, 12, 1, 1, 1, 1), []),
    ],
)
def test_the_odd_one_out_is_named(workers: list[WorkerView], says: list[str]) -> None:
    assert [oddity.text for oddity in oddities(seen(*workers))] == says


def test_the_strongest_comes_first() -> None:
    odd: Any = oddities(seen(cold(0, 0.1), worker(1, num_running_reqs=30), cold(2, 0.7)))
    assert [oddity.key[0] for oddity in odd] == ["running", "cold"]


def test_a_difference_must_last() -> None:
    judge, busy, even = Judge(), with_running(4, 4, 12), with_running(4, 4, 4)
    told = [judge.judged(seen(*busy, at_s=second)).odd for second in range(int(HOLD_S) + 1)]
    assert told[:-1] == [[]] * int(HOLD_S)
    assert told[-1] == ["worker 2: running 3 times the others"]
    judge = Judge()
    shaky = [busy, busy, even] * 5
    assert not any(judge.judged(seen(*one, at_s=at)).odd for at, one in enumerate(shaky))
