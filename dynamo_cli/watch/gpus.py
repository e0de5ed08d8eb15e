"""The GPUs that engines run on: the last figures of the driver. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from dynamo_cli.messages.lifecycle import ProcessState
from dynamo_cli.units import SECOND_NS
from dynamo_cli.watch.schema import GpuView

SILENT_S = 10.0
"""A driver that has not answered for this long hangs, and its last figures are out of date."""


@dataclass(frozen=True, slots=True)
class GpuReading:
    """One GPU at one moment. A figure is None if the driver does not report it for this GPU.

    Attributes:
        name, uuid: as in `config.Device`.
        product: the manufacturer's name of it.
        utilization: share of the last sampling period in which it computed, 0..1.
        power_watts, power_limit_watts: current power draw, and its limit.
        uncorrected_ecc_errors: memory errors since the driver was loaded.
        problem: why it cannot be read; empty if it can.
        pid_bytes: its memory that processes use, by process id, as far as the driver tells. In a
            container, drivers know other ids of processes than we do.
    """

    name: str
    uuid: str
    product: str = ""
    utilization: float | None = None
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    power_watts: float | None = None
    power_limit_watts: float | None = None
    temperature_c: int | None = None
    uncorrected_ecc_errors: int | None = None
    problem: str = ""
    pid_bytes: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Xids:
    """Errors of one kind that the driver has reported for a GPU.

    Attributes:
        xid: NVIDIA's number of the kind.
        count: how often it was reported since the frontend started.
        last_ns: when it was reported last, CLOCK_MONOTONIC.
    """

    xid: int
    count: int
    last_ns: int


@dataclass(frozen=True, slots=True)
class GpuReport:
    """All that is known of the GPUs.

    Attributes:
        read_ns: when the driver answered last, CLOCK_MONOTONIC; before its first answer, when it
            was asked first.
        readings: one for each GPU.
        problem: the driver's error if it gives no figures; otherwise empty.
        xids: reported errors by name of the GPU.
    """

    read_ns: int
    readings: tuple[GpuReading, ...] = ()
    problem: str = ""
    xids: dict[str, tuple[Xids, ...]] = field(default_factory=dict)

    def silent_s(self, now_ns: int) -> float:
        """How long the driver has been hanging, seconds; 0 if it answers."""
        age_s = (now_ns - self.read_ns) / SECOND_NS
        return age_s if age_s >= SILENT_S else 0.0


class GpuLog:
    """Collects the driver's errors and makes reports."""

    def __init__(self) -> None:
        self._xids: dict[str, dict[int, Xids]] = {}

    def read(self, readings: Iterable[GpuReading], now_ns: int, problem: str = "") -> GpuReport:
        """Make a report of an answer of the driver."""
        xids = {name: tuple(kinds.values()) for name, kinds in self._xids.items()}
        return GpuReport(now_ns, tuple(readings), problem, xids)

    def xid(self, name: str, xid: int, now_ns: int) -> bool:
        """Note a reported error; return whether it is the first of its kind for this GPU."""
        kinds = self._xids.setdefault(name, {})
        before = kinds.get(xid)
        kinds[xid] = Xids(xid, before.count + 1 if before else 1, now_ns)
        return before is None


def views(report: GpuReport, table: Sequence[ProcessState], now_ns: int) -> list[GpuView]:
    """Return the GPUs that have engines, with their figures; without figures if the driver
    hangs."""
    engines: defaultdict[str, list[ProcessState]] = defaultdict(list)
    for state in table:
        for name in state.gpus:
            engines[name].append(state)
    read = {reading.name: reading for reading in report.readings}
    silent = report.silent_s(now_ns) > 0
    found = []
    for name in sorted(engines, key=_place):
        reading = read.get(name)
        if reading is None or silent:
            reading = GpuReading(name, reading.uuid if reading else "")
        found.append(_view(reading, engines[name], report.xids.get(name, ())))
    return found


def _view(reading: GpuReading, engines: list[ProcessState], xids: Iterable[Xids]) -> GpuView:
    return GpuView(
        gpu=reading.name,
        uuid=reading.uuid,
        product=reading.product,
        engines=[state.name for state in engines],
        utilization=reading.utilization,
        memory_used_bytes=reading.memory_used_bytes,
        memory_total_bytes=reading.memory_total_bytes,
        power_watts=reading.power_watts,
        power_limit_watts=reading.power_limit_watts,
        temperature_c=reading.temperature_c,
        uncorrected_ecc_errors=reading.uncorrected_ecc_errors,
        xids={one.xid: one.count for one in xids},
        problem=reading.problem,
        engine_bytes={
            state.name: reading.pid_bytes[state.pid]
            for state in engines
            if state.pid in reading.pid_bytes
        },
    )


def _place(name: str) -> tuple[int, ...]:
    """Sort key of a name: ``10`` comes after ``2:1``."""
    return tuple(int(number) for number in name.split(":"))
