"""What is known of a replay of this server's last hour, and of what it found. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

import msgspec

from dynamo_cli.watch.schema import Snapshot

SPAN_S = 3600.0
"""The time before now that is replayed."""

POLICIES = ("round-robin", "least-loaded", "kv")


class ReplayStage(StrEnum):
    """How far a replay is."""

    IDLE = "idle"
    READING = "reading"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    STOPPED = "stopped"


class LatencySpread(msgspec.Struct, frozen=True):
    """Mean and quantiles of a time, milliseconds."""

    mean: float
    p50: float
    p99: float


class PolicyResult(msgspec.Struct, frozen=True):
    """What a policy did, or what the server itself measured: an entry of ``replay --json``.

    Attributes:
        hit_ratio: cached tokens / prompt tokens; None if it is not known.
        more: further figures by name.
    """

    requests: int
    hit_ratio: float | None = None
    ttft_ms: LatencySpread | None = None
    e2e_ms: LatencySpread | None = None
    more: dict[str, float] = {}


class Report(msgspec.Struct, frozen=True):
    """The output of ``replay --json``.

    Attributes:
        engines: which engines were simulated, and what of it is assumed.
        verdict: which policy to use.
    """

    runs: dict[str, PolicyResult]
    engines: str = ""
    verdict: str = ""


class _RecordLine(msgspec.Struct):
    timestamp: float
    input_length: int
    output_length: int
    e2e_ms: float
    ttft_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Recorded:
    """What the server itself did with the requests that are replayed.

    Attributes:
        run: its measurements.
        span_s: time from the first request to the last.
    """

    run: PolicyResult
    span_s: float


@dataclass(frozen=True, slots=True)
class Experiment:
    """A replay of the last hour of this server.

    Attributes:
        stage: how far it is.
        began_s: when it was started, seconds since 1970.
        took_s: how long it took, when it has ended.
        recorded: what was recorded, when it was read.
        served: the policy of the server.
        report: what it found, when it is done.
        problem: why it failed.
    """

    stage: ReplayStage = ReplayStage.IDLE
    began_s: float = 0.0
    took_s: float = 0.0
    recorded: Recorded | None = None
    served: str = ""
    report: Report | None = None
    problem: str = ""

    @property
    def busy(self) -> bool:
        """Whether it is under way."""
        return self.stage in (ReplayStage.READING, ReplayStage.RUNNING)


def recorded(lines: Iterable[bytes]) -> Recorded:
    """Summarize recorded requests. Lines that are no requests are left out."""
    ttft: list[float] = []
    e2e: list[float] = []
    times: list[float] = []
    for line in lines:
        try:
            one = msgspec.json.decode(line, type=_RecordLine)
        except msgspec.DecodeError:
            continue
        times.append(one.timestamp)
        e2e.append(one.e2e_ms)
        if one.ttft_ms is not None:
            ttft.append(one.ttft_ms)
    run = PolicyResult(len(times), None, _spread(ttft), _spread(e2e))
    return Recorded(run, (max(times) - min(times)) / 1000 if times else 0.0)


def _spread(values: list[float]) -> LatencySpread | None:
    if not values:
        return None
    ordered = sorted(values)
    p50, p99 = (ordered[max(math.ceil(share * len(ordered)) - 1, 0)] for share in (0.5, 0.99))
    return LatencySpread(sum(ordered) / len(ordered), p50, p99)


def read_report(output: bytes) -> Report:
    """Read the output of ``replay --json``. Its runs are called by policy alone.

    Raises:
        msgspec.DecodeError: it has another form.
    """
    found = msgspec.json.decode(output, type=Report)
    runs = {name.partition(" at ")[0]: run for name, run in found.runs.items()}
    return Report(runs, found.engines, found.verdict)


def options(snapshot: Snapshot) -> list[str]:
    """Return the options of ``replay``; the record itself says which engines there are."""
    served = snapshot.router.policy if snapshot.router else ""
    return ["--policy", ",".join(dict.fromkeys([*POLICIES, *([served] if served else [])]))]
