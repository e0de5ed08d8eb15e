"""Metrics of the host cache, and of the copies from and to it."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from dynamo_cli.frontend.metrics.routing_metrics import counter
from dynamo_cli.topology import ProcessId, Role
from dynamo_cli.watch.host_cache_schema import DiskCacheView, HostCacheView, HostCopiesView
from dynamo_cli.watch.schema import WorkerView

_COPIES = (
    ("blocks", "Blocks copied.", "loaded_blocks", "stored_blocks"),
    ("bytes", "Bytes copied.", "loaded_bytes", "stored_bytes"),
    ("seconds", "Time that copies took.", "load_s", "store_s"),
)
"""Name and text of each metric of copies, and its field for loads and for stores."""


def of(view: HostCacheView, workers: list[WorkerView]) -> Iterator[Metric]:
    """All metric families of the host cache."""
    for name, text, value in (
        ("size_bytes", "Memory for KV blocks, once an engine has opened it.", view.slots),
        ("used_bytes", "Memory that holds KV blocks.", view.used),
        ("pinned_bytes", "Memory that engines read.", view.pinned),
        ("lent_bytes", "Empty memory that engines may write to.", view.lent),
    ):
        yield GaugeMetricFamily(f"dynamo_llm_host_cache_{name}", text, value * view.slot_bytes)
    for name, text, count in (
        ("wanted_blocks", "Blocks that engines asked for.", view.wanted),
        ("found_blocks", "Of those, blocks that it had.", view.found),
        ("written_blocks", "Blocks that engines have stored.", view.written),
        ("duplicate_blocks", "Of those, blocks that it had already.", view.duplicates),
        (
            "evicted_blocks",
            "Blocks that were evicted for others, or dropped by a reset.",
            view.evicted,
        ),
        ("short", "Times an engine could not be lent enough memory.", view.short),
        ("refused_engines", "Times an engine could not use it.", view.refused),
        ("invalid", "Slots and messages of engines that were not valid.", view.invalid),
    ):
        yield CounterMetricFamily(f"dynamo_llm_host_cache_{name}", text, count)
    yield counter(
        "host_cache_dropped_blocks",
        "Blocks that were not stored or not looked up.",
        "reason",
        view.dropped.items(),
    )
    yield from _copies(view)
    if view.disk is not None:
        yield from _disk(view.disk, view.slot_bytes)
    yield _tiers(view, workers)


def _copies(view: HostCacheView) -> Iterator[Metric]:
    for name, text, loaded, stored in _COPIES:
        metric = CounterMetricFamily(
            f"dynamo_llm_host_cache_copied_{name}", text, labels=["process", "direction"]
        )
        for engine in view.engines:
            metric.add_metric([_name(engine), "load"], getattr(engine, loaded))
            metric.add_metric([_name(engine), "store"], getattr(engine, stored))
        yield metric
    waits = [(_name(engine), engine.waited_s) for engine in view.engines]
    text = "Time that requests waited for the host cache's answers."
    yield counter("host_cache_wait_seconds", text, "process", waits)


def _disk(disk: DiskCacheView, slot_bytes: int) -> Iterator[Metric]:
    for name, text, value in (
        ("size_bytes", "Most bytes that KV blocks may take on disk.", disk.places * slot_bytes),
        ("used_bytes", "KV blocks on disk, many of them in memory too.", disk.used * slot_bytes),
        ("off", "1 if the disk is not used any more because it fails.", bool(disk.off)),
    ):
        yield GaugeMetricFamily(f"dynamo_llm_disk_cache_{name}", text, value)
    for name, text, count in (
        ("wanted_blocks", "Blocks that engines asked for, that were only on disk.", disk.wanted),
        ("found_blocks", "Of those, blocks that came in time.", disk.found),
        ("read_blocks", "Blocks that were read from the disk.", disk.read),
        ("read_seconds", "Time in which any block was being read.", disk.read_s),
        ("written_blocks", "Blocks that were written to the disk.", disk.written),
        ("write_seconds", "Time in which any block was being written.", disk.write_s),
        (
            "evicted_blocks",
            "Blocks that were evicted for others, or dropped by a reset.",
            disk.evicted,
        ),
    ):
        yield CounterMetricFamily(f"dynamo_llm_disk_cache_{name}", text, count)
    text = "Blocks that were not written to the disk, or not waited for."
    yield counter("disk_cache_dropped_blocks", text, "reason", disk.dropped.items())


def _name(engine: HostCopiesView) -> str:
    role = Role.PREFILL_WORKER if engine.prefill else Role.WORKER
    return ProcessId(role, engine.worker).name


def _tiers(view: HostCacheView, workers: list[WorkerView]) -> Metric:
    hits = {
        "engine": sum(worker.prefix_cache_hits_tokens for worker in workers),
        "host": view.loaded_tokens,
    }
    return counter(
        "prefix_hits_tokens", "Prompt tokens found, by the tier of the cache.", "tier", hits.items()
    )
