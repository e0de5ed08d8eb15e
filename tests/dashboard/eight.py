"""A busy server with eight workers, each on a GPU of its own, as it is seen for a minute."""

from __future__ import annotations

import math
from collections.abc import Iterator

import msgspec

from dynamo_cli.dashboard.events import Decided, Event, RequestTimelines
from dynamo_cli.dashboard.experiment import (
    Experiment,
    LatencySpread,
    PolicyResult,
    Recorded,
    ReplayStage,
    Report,
)
from dynamo_cli.watch.decisions import CandidateView, DecisionView
from dynamo_cli.watch.load_schema import ErrorsView, QueuesView, StageView
from dynamo_cli.watch.schema import GpuView, Snapshot, TrafficView
from dynamo_cli.watch.timelines import TimelineView

from .made import decision, gpu, snapshot

STAGES = [
    StageView("tokenize", 300, 0.004, 0.02),
    StageView("route", 300, 0.0002, 0.001),
    StageView("queue", 300, 0.02, 0.4),
    StageView("prefill", 300, 0.08, 0.3),
]
START_S = 1767268800.0
SECONDS = 60
WORKERS = 8
GIB = 1 << 30


def wave(worker: int, second: int) -> float:
    """A share between 0 and 1 that differs between workers and moves with time."""
    return 0.5 + 0.5 * math.sin(second / 9 + worker * 1.3)


def gpus_at(shares: list[float]) -> list[GpuView]:
    return [
        gpu(
            *(worker,),
            utilization=0.5 + 0.49 * share,
            power_watts=300 + 390 * share,
            temperature_c=round(48 + 39 * share),
            engine_bytes={f"worker {worker}": 71 * GIB},
        )
        for worker, share in enumerate(shares)
    ]


def at(second: int) -> Snapshot:
    made = snapshot(WORKERS, 10.0 + second, recorded_requests=4 * second)
    shares = [wave(worker, second) for worker in range(WORKERS)]
    workers = [
        msgspec.structs.replace(
            one,
            num_running_reqs=round(4 + 20 * share),
            num_waiting_reqs=max(round(9 * share) - 5, 0),
            kv_cache_usage=0.3 + 0.65 * share,
            num_blocks=12_000,
            recent_hit_ratio=0.4 + 0.3 * share,
            prompt_tokens_per_s=9000 * share,
            output_tokens_per_s=200 + 1400 * share,
            ttft_p50_s=0.04 + 0.2 * share,
            ttft_p95_s=0.1 + 0.8 * share,
            itl_p95_s=0.012 + 0.02 * share,
        )
        for one, share in zip(made.workers, shares, strict=True)
    ]
    output = sum(one.output_tokens_per_s for one in workers)
    traffic = msgspec.structs.replace(
        made.traffic,
        in_flight=sum(one.num_running_reqs + one.num_waiting_reqs for one in workers),
        requests_per_s=output / 300,
        prompt_tokens_per_s=output * 5,
        output_tokens_per_s=output,
        ttft_p50_s=0.12,
        ttft_p95_s=0.5 + 0.3 * shares[0],
        itl_p50_s=0.014,
        itl_p95_s=0.02 + 0.01 * shares[3],
        hit_ratio=0.55,
    )
    assert isinstance(traffic, TrafficView)
    processes = [
        msgspec.structs.replace(one, pid=4000 + place, rss_bytes=GIB // 2, uptime_s=70.0 + second)
        for place, one in enumerate(made.processes)
    ]
    for place, one in enumerate(processes):
        if one.role == "worker":
            processes[place] = msgspec.structs.replace(one, device=f"gpu {one.index}")
    return msgspec.structs.replace(
        made,
        workers=workers,
        gpus=gpus_at(shares),
        traffic=traffic,
        processes=processes,
        queues=QueuesView(workers=sum(one.num_waiting_reqs for one in workers)),
        stages=STAGES,
        recent_errors=ErrorsView(300, failed=6, kinds={"first_token_timeout": 6}),
    )


def routed(number: int) -> DecisionView:
    costs = [40.0 + 700 * wave(worker, number) for worker in range(WORKERS)]
    best = min(range(WORKERS), key=costs.__getitem__)
    second = sorted(costs)[1]
    return decision(
        number,
        f"{number * 7919 % 65536:04x}c1d2e3f4",
        worker=best,
        prompt_tokens=800 + 37 * (number % 40),
        required_blocks=40,
        candidates=[
            CandidateView(
                worker,
                (worker * 7 + number) % 40,
                cost,
                {"wait_ms": cost - 30, "prefill_ms": 30.0},
            )
            for worker, cost in enumerate(costs)
        ],
        margin=second - costs[best],
        age_s=(80 - number) / 4,
        session=f"session-{number % 9}",
        measured_tokens=192 if number % 5 else 96,
    )


def request(number: int) -> TimelineView:
    """A request that ended; every ninth failed, and every seventh was slow."""
    ttft_ms = 1800.0 if number % 7 == 0 else 90.0 + number
    failed = number % 9 == 0
    return TimelineView(
        request_id=f"chat-{number:04}",
        endpoint="/v1/chat/completions",
        model="tiny",
        status=503 if failed else 200,
        error="first_token_timeout" if failed else "",
        finish_reason="" if failed else "length",
        worker=number % WORKERS,
        processor=0,
        prefill_worker=None,
        streamed=True,
        prompt_tokens=700 + number,
        cached_tokens=320,
        output_tokens=0 if failed else 128,
        age_s=(60 - number) + 2.5,
        stages_ms={"arrival": 0.0, "routed": 3.0, "first_byte": ttft_ms, "ended": 2500.0},
        state="failed" if failed else "done",
        number=number,
        session=f"session-{number % 9}",
        ttft_ms=ttft_ms,
        arrival_s=float(number),
    )


def running(number: int) -> TimelineView:
    """A request that runs, in one of the three states."""
    plain = request(number)
    state = ("unplaced", "prefill", "decode")[number % 3]
    begun = state == "decode"
    return msgspec.structs.replace(
        plain,
        request_id=f"run-{number:04}",
        status=0,
        error="",
        finish_reason="",
        worker=None if state == "unplaced" else number % WORKERS,
        prompt_tokens=0 if state == "unplaced" else plain.prompt_tokens,
        output_tokens=40 if begun else 0,
        cached_tokens=0,
        age_s=60.0 - number + 0.75,
        stages_ms={"arrival": 0.0, **({"routed": 3.0, "first_byte": 300.0} if begun else {})},
        state=state,
        number=0,
        ttft_ms=300.0 if begun else None,
    )


EXPERIMENT = Experiment(
    stage=ReplayStage.DONE,
    began_s=START_S,
    took_s=41.0,
    recorded=Recorded(
        PolicyResult(12_345, None, LatencySpread(212.0, 120.0, 1900.0), None), 3580.0
    ),
    served="kv",
    report=Report(
        {
            name: PolicyResult(
                12_345,
                hit,
                LatencySpread(mean, mean * 0.8, mean * 4),
                LatencySpread(mean * 9, mean * 8, mean * 20),
                {"load skew": 1.1, "preemptions": 3.0},
            )
            for name, hit, mean in (
                ("round-robin", 0.42, 260.0),
                ("least-loaded", 0.44, 240.0),
                ("kv", 0.71, 150.0),
            )
        },
        "8 engines with 12,000 KV blocks of 32 tokens, as recorded; as fast as gpu-8b: assumed, "
        "--profile names another",
        "Use --router kv: mean TTFT 0.62 and p99 TTFT 0.62 times those of least-loaded.",
    ),
)


def events() -> Iterator[tuple[float, Event]]:
    for second in range(SECONDS):
        yield START_S + second, at(second)
    end_s = START_S + SECONDS
    yield end_s, Decided([routed(number) for number in range(80, 0, -1)])
    ended = [request(number) for number in range(56, 0, -1)]
    yield end_s, RequestTimelines([*(running(number) for number in (59, 58, 57)), *ended])
    yield end_s, EXPERIMENT
