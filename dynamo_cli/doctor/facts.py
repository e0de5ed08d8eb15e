"""What was seen; nothing here judges."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from dynamo_cli.host.gpus import Gpu
from dynamo_cli.plan.machine import Machine
from dynamo_cli.serve_config import ServeConfig


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that was tried with vLLM's installation.

    Attributes:
        name: what was tried: an import, a computation.
        ok: None when the process ended in the middle of it.
        detail: what came of it; the error when it failed.
    """

    name: str
    ok: bool | None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Trial:
    """The process in which vLLM was tried.

    Attributes:
        steps: in order; the last is unfinished if it ended by itself.
        ended_by: name of the signal that ended it, or ``timeout``; else empty.
    """

    steps: tuple[Step, ...] = ()
    ended_by: str = ""


@dataclass(frozen=True, slots=True)
class Orphan:
    """A process of ours that nobody looks after any more."""

    pid: int
    title: str


class Place(StrEnum):
    """Where a model is."""

    HERE = "here"
    FETCHED = "fetched"  # when it is first served
    NOWHERE = "nowhere"


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A model as it lies on the disk.

    Attributes:
        problem: why it cannot be had.
        config: its ``config.json``; empty when it is not here.
        weights_bytes: of all its weight files; 0 when there is none yet.
    """

    name: str
    place: Place
    problem: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    weights_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Facts:
    """All that was seen.

    Attributes:
        python: major and minor version.
        packages: versions by name, of those that matter and are installed.
        machine: None when it could not be read; then `machine_problem` says why.
        gpus: every one that the driver names, whatever build of vLLM is installed.
        cpu_flags: of the first core.
        shm_free_bytes: in ``/dev/shm``; None without it.
        caches: where they go; then `cache_problem` says why not to the usual place.
        open_files: that this process may have.
        environment: variables that engines read.
        compiler: one for C++ is installed.
        port_problem: why the port cannot be had; empty when it can.
        plan: what would be started; None when that cannot be: then `plan_problem` says why.
        engine_options: for vLLM, by name with the first value.
    """

    python: tuple[int, int]
    packages: dict[str, str] = field(default_factory=dict)
    trial: Trial = Trial()
    machine: Machine | None = None
    machine_problem: str = ""
    gpus: tuple[Gpu, ...] = ()
    cpu_flags: frozenset[str] = frozenset()
    total_bytes: int = 0
    shm_free_bytes: int | None = None
    caches: str = ""
    cache_problem: str = ""
    open_files: int = 0
    environment: dict[str, str] = field(default_factory=dict)
    compiler: bool = True
    host: str = ""
    port: int = 0
    port_problem: str = ""
    orphans: tuple[Orphan, ...] = ()
    leftovers: tuple[str, ...] = ()
    plan: ServeConfig | None = None
    plan_problem: str = ""
    engine_options: dict[str, str] = field(default_factory=dict)
    model: ModelFiles | None = None
