"""Snapshots for tests."""

from __future__ import annotations

from typing import Any

import msgspec

from dynamo_cli.messages.host_cache import HostCacheStats, HostCopies
from dynamo_cli.messages.lifecycle import Phase, ProcessState, ProcessTable
from dynamo_cli.messages.prefill import PrefillQueueStats
from dynamo_cli.messages.request import EngineReady
from dynamo_cli.messages.routing import RouterStats
from dynamo_cli.messages.telemetry import WorkerStats
from dynamo_cli.topology import ProcessId, tree
from dynamo_cli.units import SECOND_NS
from dynamo_cli.watch.decisions import CandidateView, DecisionView
from dynamo_cli.watch.meter import Meter
from dynamo_cli.watch.node_schema import NodeView
from dynamo_cli.watch.schema import GpuView, Snapshot, WorkerView
from dynamo_cli.watch.state import TreeState


def snapshot(
    workers: int = 2,
    at_s: float = 10.0,
    *,
    prefill_workers: int = 0,
    host_cache: bool = False,
    **fields: Any,
) -> Snapshot:
    """Make a snapshot of a tree in which all processes are ready; `fields` replace its fields."""
    known = TreeState(Meter(), ("tiny",), 0)
    processes = tree(
        workers,
        1,
        routed=workers > 1,
        prefill_workers=prefill_workers,
        host_caches=(0,) if host_cache else (),
    )
    table = [state(process) for process in processes]
    known.apply(ProcessTable(table, serving=True, reason=""), 0)
    for worker in range(workers):
        known.apply(EngineReady(worker, ["generate"], 4096, 32, 512, 8), 0)
        known.apply(WorkerStats(worker, 1, 0, 0.25, 100, 50, 1000, 100, 0, 10, 0), 0)
    if workers > 1:
        active = dict.fromkeys(range(workers), 1)
        known.apply(RouterStats("kv", dict.fromkeys(range(workers), 5), active, 0), 0)
    if prefill_workers:
        known.apply(PrefillQueueStats(2, 900, 1, 400, 0.5, False, 7, {"done": 4}, {}, {}, [], 0), 0)
    if host_cache:
        now_ns = int(at_s * SECOND_NS)
        known.apply(HostCacheStats(1000, 1 << 20, 400, 3, 125, 200, 150, 60, 5, 15, 0, 0), now_ns)
        gib = 1 << 30
        copies = HostCopies(False, 0, 900, gib, 0.5, 400, gib // 2, 0.25, 32, {"no_slot": 2}, 0.1)
        known.apply(copies, now_ns)
    known.url = "http://127.0.0.1:8181"
    made = known.snapshot(int(at_s * SECOND_NS), {}, 0)
    return msgspec.structs.replace(made, **fields)


def state(process: ProcessId, phase: Phase = Phase.READY, reason: str = "") -> ProcessState:
    return ProcessState(process.name, process.role, process.index, phase, reason, 1, 0, 0, 0, "cpu")


def worker(index: int, **fields: Any) -> WorkerView:
    """Return a worker of `snapshot` with other figures."""
    return msgspec.structs.replace(snapshot(index + 1).workers[index], **fields)


def decision(number: int, name: str = "", **fields: Any) -> DecisionView:
    """Make a decision between two workers."""
    plain = DecisionView(
        number=number,
        request_id=f"api-{name or number}",
        engine_request_id=name or f"engine-{number}",
        worker=0,
        policy="kv",
        reason="cost",
        prompt_tokens=250,
        required_blocks=8,
        overlap_blocks=6,
        predicted_tokens=192,
        measured_tokens=None,
        margin=4.0,
        waited_us=0.0,
        decision_us=25.0,
        age_s=1.0,
        prefill_worker=None,
        candidates=[
            CandidateView(0, 6, 12.0, {"prefill": 2.0, "decode": 10.0}),
            CandidateView(1, 0, 16.0, {"prefill": 8.0, "decode": 8.0}),
        ],
        session="",
    )
    return msgspec.structs.replace(plain, **fields)


def gpu(index: int, **fields: Any) -> GpuView:
    """Make a GPU that the worker of the same number uses."""
    plain = GpuView(
        gpu=str(index),
        uuid=f"GPU-{index}",
        product="NVIDIA H100 80GB HBM3",
        engines=[f"worker {index}"],
        utilization=0.92,
        memory_used_bytes=72 << 30,
        memory_total_bytes=80 << 30,
        power_watts=612.4,
        power_limit_watts=700.0,
        temperature_c=64,
        uncorrected_ecc_errors=0,
    )
    return msgspec.structs.replace(plain, **fields)


def node(name: str, **fields: Any) -> NodeView:
    """Make another node of a run, which is up and of which nothing was lost."""
    plain = NodeView(
        name=name,
        up=True,
        silent_s=0.2,
        beat_s=0.0012,
        sent_frames=48_200,
        sent_bytes=31 << 20,
        received_frames=151_000,
        received_bytes=64 << 20,
        refused_connections=0,
        stale_frames=0,
        reconnects=0,
        resyncs=0,
        lost_log_lines=0,
    )
    return msgspec.structs.replace(plain, **fields)
