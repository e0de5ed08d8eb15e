"""The GPUs that engines run on: what the driver said of them last. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from dynamo_cli.messages.lifecycle import ProcessState
from dynamo_cli.units import SECOND_NS
from dynamo_cli.watch.schema import GpuView

SILENT_S = 10.0
"""A driver that has not answered for so long hangs; what it said before counts no more."""


@dataclass(frozen=True, slots=True)
class GpuReading:
    """One GPU at one moment; None: the driver does not tell that of it.

    Attributes:
        name, uuid: as in `config.Device`.
        product: the name that the maker gives it.
        utilization: share of the last moments in which it computed, 0..1.
        power_watts, power_limit_watts: that it takes, and may take.
        uncorrected_ecc_errors: of its memory, since the driver was loaded.
        problem: why nothing can be read of it; empty when all is well.
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


@dataclass(frozen=True, slots=True)
class Xids:
    """An error of one kind that the driver has reported of a GPU; NVIDIA numbers the kinds.

    Attributes:
        count: how often it came while somebody watched.
        last_ns: when it came last, by the monotonic clock.
    """

    xid: int
    count: int
    last_ns: int


@dataclass(frozen=True, slots=True)
class GpuReport:
    """All that is known of the GPUs.

    Attributes:
        read_ns: when the driver last answered, by the monotonic clock; before it has, when it was
            asked first.
        problem: what it answers instead of figures; empty when all is well.
        xids: by name of the GPU.
    """

    read_ns: int
    readings: tuple[GpuReading, ...] = ()
    problem: str = ""
    xids: dict[str, tuple[Xids, ...]] = field(default_factory=dict)

    def silent_s(self, now_ns: int) -> float:
        """For how long the driver has hung; 0 when it does not."""
        age_s = (now_ns - self.read_ns) / SECOND_NS
        return age_s if age_s >= SILENT_S else 0.0


class GpuLog:
    """Gathers what the driver says."""

    def __init__(self) -> None:
        self._xids: dict[str, dict[int, Xids]] = {}

    def read(self, readings: Iterable[GpuReading], now_ns: int, problem: str = "") -> GpuReport:
        """It has answered."""
        xids = {name: tuple(kinds.values()) for name, kinds in self._xids.items()}
        return GpuReport(now_ns, tuple(readings), problem, xids)

    def xid(self, name: str, xid: int, now_ns: int) -> bool:
        """It has reported an error of a GPU; whether that is the first of its kind there."""
        kinds = self._xids.setdefault(name, {})
        before = kinds.get(xid)
        kinds[xid] = Xids(xid, before.count + 1 if before else 1, now_ns)
        return before is None


def views(report: GpuReport, table: Sequence[ProcessState], now_ns: int) -> list[GpuView]:
    """Those GPUs that have engines, with what is known of them; of a driver that hangs: nothing."""
    engines: defaultdict[str, list[str]] = defaultdict(list)
    for state in table:
        for name in state.gpus:
            engines[name].append(state.name)
    read = {reading.name: reading for reading in report.readings}
    silent = report.silent_s(now_ns) > 0
    found = []
    for name in sorted(engines, key=_place):
        reading = read.get(name)
        if reading is None or silent:
            reading = GpuReading(name, reading.uuid if reading else "")
        found.append(_view(reading, engines[name], report.xids.get(name, ())))
    return found


def _view(reading: GpuReading, engines: list[str], xids: Iterable[Xids]) -> GpuView:
    return GpuView(
        gpu=reading.name,
        uuid=reading.uuid,
        product=reading.product,
        engines=engines,
        utilization=reading.utilization,
        memory_used_bytes=reading.memory_used_bytes,
        memory_total_bytes=reading.memory_total_bytes,
        power_watts=reading.power_watts,
        power_limit_watts=reading.power_limit_watts,
        temperature_c=reading.temperature_c,
        uncorrected_ecc_errors=reading.uncorrected_ecc_errors,
        xids={one.xid: one.count for one in xids},
        problem=reading.problem,
    )


def _place(name: str) -> tuple[int, ...]:
    """``10`` comes after ``2:1``."""
    return tuple(int(number) for number in name.split(":"))
