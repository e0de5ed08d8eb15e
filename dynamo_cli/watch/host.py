"""What processes use and what the machine has left, as the frontend reads it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from dynamo_cli.watch.load_schema import HostView


@dataclass(frozen=True, slots=True)
class ProcessUse:
    """What a process uses.

    Attributes:
        rss_bytes: its resident memory.
        cpu_s: CPU time since its start, seconds.
        cpu_cores, cpu_demand: see `ProcessView`; None at the first reading.
    """

    rss_bytes: int
    cpu_s: float
    cpu_cores: float | None = None
    cpu_demand: float | None = None


@dataclass(frozen=True, slots=True)
class HostReport:
    """One reading.

    Attributes:
        processes: what processes use, by pid.
        host: what the machine has left.
    """

    processes: Mapping[int, ProcessUse] = field(default_factory=dict)
    host: HostView = HostView()  # noqa: RUF009 - frozen
