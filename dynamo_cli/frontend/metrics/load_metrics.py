"""Metrics of queues, stages, processes, alarms and the machine."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from dynamo_cli.watch.load_schema import HostView
from dynamo_cli.watch.schema import Snapshot
from dynamo_cli.watch.stages import StageTimes


def of(snapshot: Snapshot, stages: StageTimes) -> Iterator[Metric]:
    """All of these families."""
    yield from _queues(snapshot)
    yield _stages(stages)
    yield from _processes(snapshot)
    yield from _host(snapshot.host)
    alarms = GaugeMetricFamily("dynamo_llm_alarm", "1 while the alarm is raised.", labels=["kind"])
    for kind in sorted({alarm.kind for alarm in snapshot.alarms}):
        alarms.add_metric([kind], 1)
    yield alarms


def _queues(snapshot: Snapshot) -> Iterator[Metric]:
    queues = snapshot.queues
    depth = GaugeMetricFamily(
        "dynamo_llm_queue_requests", "Requests that wait, by what they wait for.", labels=["box"]
    )
    for box, count in queues.boxes.items():
        depth.add_metric([box], count)
    yield depth
    yield GaugeMetricFamily(
        "dynamo_llm_unstarted_requests", "Requests without a first token.", queues.unstarted
    )
    yield GaugeMetricFamily(
        "dynamo_llm_oldest_unstarted_seconds",
        "Age of the oldest request without a first token.",
        queues.oldest_unstarted_s,
    )


def _stages(stages: StageTimes) -> Metric:
    family = HistogramMetricFamily(
        "dynamo_llm_stage_seconds", "Time that requests spent in a stage.", labels=["stage"]
    )
    for name, histogram in stages.histograms.items():
        family.add_metric([name], buckets=histogram.cumulative(), sum_value=histogram.total)
    return family


def _processes(snapshot: Snapshot) -> Iterator[Metric]:
    cpu = CounterMetricFamily(
        "dynamo_llm_process_cpu_seconds", "CPU time of a process.", labels=["process"]
    )
    demand = GaugeMetricFamily(
        "dynamo_llm_process_cpu_demand_cores",
        "Cores that the threads of a process used or waited for, last 5 s.",
        labels=["process"],
    )
    memory = GaugeMetricFamily(
        "dynamo_llm_process_memory_bytes", "Resident memory of a process.", labels=["process"]
    )
    for process in snapshot.processes:
        if process.rss_bytes:
            cpu.add_metric([process.name], process.cpu_s)
            memory.add_metric([process.name], process.rss_bytes)
        if process.cpu_demand is not None:
            demand.add_metric([process.name], process.cpu_demand)
    yield from (cpu, demand, memory)


def _host(host: HostView) -> Iterator[Metric]:
    for name, text, value in (
        (
            "memory_available_bytes",
            "Main memory that this server may still use.",
            host.memory_available_bytes,
        ),
        ("record_free_bytes", "Free room on the disk of the record.", host.record_free_bytes),
    ):
        if value is not None:
            yield GaugeMetricFamily(f"dynamo_llm_{name}", text, value)
