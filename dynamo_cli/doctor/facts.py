"""What `gather` found out, before any judgement. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from dynamo_cli.host.gpus import Gpu
from dynamo_cli.plan.machine import Machine
from dynamo_cli.serve_config import ServeConfig


@dataclass(frozen=True, slots=True)
class TrialStep:
    """One thing that was tried with the installed vLLM.

    Attributes:
        name: what was tried, such as an import or a computation.
        ok: None when the process ended during the step.
        detail: the result, or the error when it failed.
    """

    name: str
    ok: bool | None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Trial:
    """The process in which vLLM was tried.

    Attributes:
        steps: in order; the last is unfinished if the process ended early.
        ended_by: name of the signal that ended it, or ``timeout``; otherwise empty.
    """

    steps: tuple[TrialStep, ...] = ()
    ended_by: str = ""


@dataclass(frozen=True, slots=True)
class Orphan:
    """A process of this program whose supervisor has ended."""

    pid: int
    title: str


class Place(StrEnum):
    """Where the files of a model are."""

    HERE = "here"
    FETCHED = "fetched"  # not here; serving will fetch them
    NOWHERE = "nowhere"


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A model as it is on the disk.

    Attributes:
        problem: why the model cannot be found; empty when it can.
        config: its ``config.json``; empty when the file is not here.
        weights_bytes: total size of its weight files; 0 when there are none yet.
    """

    name: str
    place: Place
    problem: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    weights_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything that was found out about the machine, the installation and the options.

    Attributes:
        python: major and minor version.
        packages: versions of the relevant packages that are installed, by name.
        trial: the result of trying vLLM.
        machine: None when it could not be read; `machine_problem` then says why.
        gpus: every GPU that the driver lists, whatever build of vLLM is installed.
        cpu_flags: features of the first core.
        shm_free_bytes: free space in ``/dev/shm``; None without that folder.
        disk_free_bytes: free space for ``--disk-cache``; None without it.
        caches: the cache folder; `cache_problem` says why it is not the usual one.
        open_files: how many files this process may have open.
        locked_bytes: how much memory it may lock; None without a limit.
        environment: the variables that engines read and that are set.
        compiler: whether a C++ compiler is installed.
        port_problem: why nothing can listen on the port; empty when something can.
        orphans: processes of this program without a supervisor.
        leftovers: folders that killed processes of this program have left behind.
        plan: what would be started; None when the options cannot work: `plan_problem` says why.
        engine_options: options for vLLM by flag, values joined by spaces.
        model: None when no model was named.
    """

    python: tuple[int, int]
    packages: dict[str, str] = field(default_factory=dict)
    trial: Trial = Trial()
    machine: Machine | None = None
    machine_problem: str = ""
    gpus: tuple[Gpu, ...] = ()
    cpu_flags: frozenset[str] = frozenset()
    shm_free_bytes: int | None = None
    disk_free_bytes: int | None = None
    caches: str = ""
    cache_problem: str = ""
    open_files: int = 0
    locked_bytes: int | None = None
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

    @property
    def simulated(self) -> bool:
        """Whether the engines only simulate vLLM (``--engine mock``)."""
        return self.plan is not None and self.plan.engine.simulation is not None

    @property
    def engines_here(self) -> int:
        """How many engines are to run on this machine; 0 with ``--ray``."""
        if self.plan is None or self.plan.cluster is not None:
            return 0
        return len(self.plan.engine_devices) + len(self.plan.prefill_devices)
