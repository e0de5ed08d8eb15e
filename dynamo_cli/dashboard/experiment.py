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
PROFILE = "gpu-8b"
"""Speed of the simulated engines; their number and the sizes of their caches are the server's."""


class Stage(StrEnum):
    """How far a replay is."""

    IDLE = "idle"
    READING = "reading"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    STOPPED = "stopped"


class Spread(msgspec.Struct, frozen=True):
    """Mean and quantiles of a time, milliseconds."""

    mean: float
    p50: float
    p99: float


class Run(msgspec.Struct, frozen=True):
    """What a policy did, or what the server itself measured: an entry of ``replay --json``.

    Attributes:
        hit_ratio: cached tokens / prompt tokens; None if it is not known.
        more: further figures by name.
    """

    requests: int
    hit_ratio: float | None = None
    ttft_ms: Spread | None = None
    e2e_ms: Spread | None = None
    more: dict[str, float] = {}


class Report(msgspec.Struct, frozen=True):
    """The output of ``replay --json``."""

    runs: dict[str, Run]
    verdict: str = ""


class _Line(msgspec.Struct):
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

    run: Run
    span_s: float


@dataclass(frozen=True, slots=True)
class Experiment:
    """A replay of the last hour of this server.

    Attributes:
        stage: how far it is.
        began_s: when it was started, seconds since 1970.
        took_s: how long it took, when it has ended.
        recorded: what was recorded, when it was read.
        engines: words about the engines that are simulated.
        served: the policy of the server.
        report: what it found, when it is done.
        problem: why it failed.
    """

    stage: Stage = Stage.IDLE
    began_s: float = 0.0
    took_s: float = 0.0
    recorded: Recorded | None = None
    engines: str = ""
    served: str = ""
    report: Report | None = None
    problem: str = ""

    @property
    def busy(self) -> bool:
        """Whether it is under way."""
        return self.stage in (Stage.READING, Stage.RUNNING)


def recorded(lines: Iterable[bytes]) -> Recorded:
    """Summarize recorded requests. Lines that are no requests are left out."""
    ttft: list[float] = []
    e2e: list[float] = []
    times: list[float] = []
    for line in lines:
        try:
            one = msgspec.json.decode(line, type=_Line)
        except msgspec.DecodeError:
            continue
        times.append(one.timestamp)
        e2e.append(one.e2e_ms)
        if one.ttft_ms is not None:
            ttft.append(one.ttft_ms)
    run = Run(len(times), None, _spread(ttft), _spread(e2e))
    return Recorded(run, (max(times) - min(times)) / 1000 if times else 0.0)


def _spread(values: list[float]) -> Spread | None:
    if not values:
        return None
    ordered = sorted(values)
    p50, p99 = (ordered[max(math.ceil(share * len(ordered)) - 1, 0)] for share in (0.5, 0.99))
    return Spread(sum(ordered) / len(ordered), p50, p99)


def read_report(output: bytes) -> Report:
    """Read the output of ``replay --json``. Its runs are called by policy alone.

    Raises:
        msgspec.DecodeError: it has another form.
    """
    found = msgspec.json.decode(output, type=Report)
    runs = {name.partition(" at ")[0]: run for name, run in found.runs.items()}
    return Report(runs, found.verdict)


def options(snapshot: Snapshot) -> list[str]:
    """Return the options of ``replay`` for engines like those of this server."""
    served = snapshot.router.policy if snapshot.router else ""
    policies = dict.fromkeys([*POLICIES, *([served] if served else [])])
    blocks = max((worker.num_blocks for worker in snapshot.workers), default=0)
    return [
        *("--policy", ",".join(policies)),
        *("--workers", str(max(len(snapshot.workers), 1)), "--profile", PROFILE),
        *(("--kv-blocks", str(blocks)) if blocks > 1 else ()),
    ]


def engines(snapshot: Snapshot) -> str:
    """Describe the engines that `options` asks for."""
    workers = snapshot.workers
    count = f"{len(workers)} engine{'s' * (len(workers) != 1)}"
    sized = next((one for one in workers if one.num_blocks), None)
    size = (
        f" with {sized.num_blocks:,} KV blocks of {sized.block_size} tokens, as here"
        if sized
        else ""
    )
    return f"{count}{size}; assumed: each as fast as the profile {PROFILE}"
