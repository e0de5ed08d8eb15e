"""All families of ``/metrics``, from a page on which everything is."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from prometheus_client.core import Metric

from dynamo_cli.frontend.after.recorder import Recorder
from dynamo_cli.frontend.metrics import exposition
from dynamo_cli.messages.cluster import NodeState, NodeTable, RelayStats
from dynamo_cli.messages.host_cache import DiskStats, HostCacheStats, HostCopies
from dynamo_cli.messages.lifecycle import Phase, ProcessState, ProcessTable
from dynamo_cli.messages.prefill import PrefillQueueStats, TransferStats
from dynamo_cli.messages.routing import RouterStats
from dynamo_cli.messages.set_up import SetUp
from dynamo_cli.messages.telemetry import ProcessorStats
from dynamo_cli.topology import Role
from dynamo_cli.watch.gpus import GpuReading, GpuReport, Xids
from dynamo_cli.watch.host import HostReport
from dynamo_cli.watch.load_schema import HostView
from dynamo_cli.watch.state import TreeState
from tests.watch.test_vllm_metrics import served


class Family(NamedTuple):
    """A metric, as Prometheus names its samples."""

    name: str
    kind: str
    text: str
    labels: tuple[str, ...]


def families() -> Iterator[Family]:
    with tempfile.TemporaryDirectory() as folder:
        recorder = Recorder(str(Path(folder) / "record"), SetUp)
        try:
            for metric in collected(recorder):
                suffix = "_total" if metric.type == "counter" else ""
                yield Family(
                    metric.name + suffix, metric.type, metric.documentation, labels(metric)
                )
        finally:
            recorder.close()


def labels(metric: Metric) -> tuple[str, ...]:
    named = dict.fromkeys(label for sample in metric.samples for label in sample.labels)
    return tuple(getattr(metric, "_labelnames", ()) or [one for one in named if one != "le"])


def collected(recorder: Recorder) -> list[Metric]:
    tree, meter = served()
    everything(tree)
    host = HostReport({}, HostView(1, 1, 1, 1))
    snapshot = tree.snapshot(0, {"worker 0": 0}, 0, host, gpus=gpus())
    page = exposition._Page(meter, snapshot, tree.prefill, recorder, tree.engine_totals)
    return list(page.collect())


def gpus() -> GpuReport:
    reading = GpuReading("0", "GPU-0", "H100", 0.5, 1, 2, 3.0, 4.0, 60, uncorrected_ecc_errors=0)
    return GpuReport(0, (reading,), xids={"0": (Xids(79, 1, 0),)})


def everything(tree: TreeState) -> None:
    """Let a process of each role report."""
    states = [
        ProcessState(str(role), role, 0, Phase.READY, "", 1, 0, 0, 0, "gpu", ("0",))
        for role in Role
    ]
    tree.apply(ProcessTable(states, serving=True, reason=""), 0)
    tree.apply(RouterStats("kv", {0: 2}, {0: 0}, 0), 0)
    for prefill in (False, True):
        tree.apply(TransferStats(prefill, 0, {}, {}, 0, {}, {}, {}, {}, []), 0)
        tree.apply(HostCopies(prefill, 0, 0, 0, 0.0, 0, 0, 0.0, 16, {}), 0)
    tree.apply(PrefillQueueStats(0, 0, 0, 0, 0.0, False, 4, {}, {}, {}, [], 0), 0)
    tree.apply(HostCacheStats(64, 4096, 9, 0, 16, 0, 0, 9, 0, 0, 0, 0, disk=DiskStats()), 0)
    tree.apply(NodeTable([NodeState("node-b", True, 0.0, 0.0, RelayStats())]), 0)
    tree.processor_stats(0, ProcessorStats(0, 0))
