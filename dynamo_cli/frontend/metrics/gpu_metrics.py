"""Metrics of the GPUs that engines run on; a value that the driver does not report is left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from dynamo_cli.watch.schema import GpuView

_GAUGE, _COUNTER = GaugeMetricFamily, CounterMetricFamily


class _Figure(NamedTuple):
    """A field of `GpuView` and its metric."""

    family: type[GaugeMetricFamily] | type[CounterMetricFamily]
    field: str
    name: str
    text: str


# fmt: off
_FIGURES = (
    _Figure(_GAUGE, "utilization", "utilization_ratio",
            "Share of the last sample period in which the GPU computed, 0 to 1."),
    _Figure(_GAUGE, "memory_used_bytes", "memory_used_bytes",
            "Memory of the GPU in use, by all processes."),
    _Figure(_GAUGE, "memory_total_bytes", "memory_total_bytes",
            "Total memory of the GPU."),
    _Figure(_GAUGE, "power_watts", "power_watts", "Power that the GPU draws."),
    _Figure(_GAUGE, "power_limit_watts", "power_limit_watts", "Power limit of the GPU."),
    _Figure(_GAUGE, "temperature_c", "temperature_celsius", "Temperature of the GPU."),
    _Figure(_COUNTER, "uncorrected_ecc_errors", "uncorrected_ecc_errors",
            "Uncorrectable memory errors since the driver was loaded."),
)
# fmt: on


def of(gpus: Sequence[GpuView]) -> list[Metric]:
    """All metric families of the GPUs."""
    return [*(_figures(gpus, figure) for figure in _FIGURES), _xids(gpus), _engines(gpus)]


def _figures(gpus: Sequence[GpuView], figure: _Figure) -> Metric:
    family = figure.family(f"dynamo_llm_gpu_{figure.name}", figure.text, labels=["gpu"])
    for gpu in gpus:
        if (value := getattr(gpu, figure.field)) is not None:
            family.add_metric([gpu.gpu], float(value))
    return family


def _xids(gpus: Sequence[GpuView]) -> Metric:
    family = CounterMetricFamily(
        "dynamo_llm_gpu_xid_errors",
        "Xid errors that the driver has reported.",
        labels=["gpu", "xid"],
    )
    for gpu in gpus:
        for xid, count in gpu.xids.items():
            family.add_metric([gpu.gpu, str(xid)], count)
    return family


def _engines(gpus: Sequence[GpuView]) -> Metric:
    family = GaugeMetricFamily(
        "dynamo_llm_gpu_engine",
        "1 for each engine on the GPU.",
        labels=["gpu", "uuid", "product", "process"],
    )
    for gpu in gpus:
        for process in gpu.engines:
            family.add_metric([gpu.gpu, gpu.uuid, gpu.product, process], 1)
    return family
