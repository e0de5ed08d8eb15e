"""Environment variables that vLLM reads when it is imported; they must be set before that."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from dynamo_cli.config import Devices, EngineConfig
from dynamo_cli.host.cache import cache_root
from dynamo_cli.host.optional import cores_of_this_process, may_fail

EAGER, COMPILED = "--enforce-eager", "--no-enforce-eager"
NO_COMPILER = "TORCHDYNAMO_DISABLE"
"""Makes `torch.compile` return its argument unchanged; read when a function is defined."""


def prepare(config: EngineConfig) -> None:
    """Set the variables that the user has not set.

    Args:
        config: the configuration of any engine; all engines differ only in their devices.
    """
    values = {
        # EngineCore runs in our own loop, not in a process of its own behind sockets.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        # For the ranks of an engine on several devices. Their imports are loaded already, and the
        # process that forks them has neither threads nor a CUDA context.
        "VLLM_WORKER_MULTIPROC_METHOD": "fork",
        "VLLM_NO_USAGE_STATS": "1",
        # A GPU engine that is started again takes the measured size of its cache; see plans.py.
        "VLLM_ENABLE_STARTUP_PLAN": "1",
        # Otherwise CUDA numbers the fastest GPU first, but NVML, which vLLM also asks, by slot.
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        # Our handler formats all logs, so that the supervisor can separate level and text.
        "VLLM_CONFIGURE_LOGGING": "0",
        "VLLM_LOGGING_LEVEL": config.log_level,
        # Otherwise both use the folder for temporary files, where they would be left behind.
        "TORCHINDUCTOR_CACHE_DIR": str(cache_root() / "torchinductor"),
        "TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS": "0",
        # Otherwise an engine that compiles its model and one that loads the compiled model look for
        # Triton's kernels in different folders, and the second one compiles them all again: 24 s.
        "TRITON_CACHE_DIR": str(cache_root() / "triton"),
        # A fork would break the tokenizer's threads; the processor has threads of its own.
        "TOKENIZERS_PARALLELISM": "false",
    }
    if config.threads:
        values["OMP_NUM_THREADS"] = str(config.threads)
        # If vLLM pinned threads, several engines would share the same cores.
        values["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
    if _eager(config) and not config.devices:
        # --enforce-eager is about the model alone. Without this, functions of the sampler would be
        # compiled while requests wait, and the engine would end if there is no C++ compiler.
        values[NO_COMPILER] = "1"
    for name, value in values.items():
        os.environ.setdefault(name, value)
    _forget_services()


def _forget_services() -> None:
    """Drop the variable that Kubernetes sets for a Service ``vllm``: vLLM reads it as its port."""
    if "://" in os.environ.get("VLLM_PORT", ""):
        del os.environ["VLLM_PORT"]


def _eager(config: EngineConfig) -> bool:
    """Whether nothing is to be compiled; the later of both options counts, as in vLLM."""
    chosen = [arg for arg in config.args if arg in (EAGER, COMPILED)]
    return bool(chosen) and chosen[-1] == EAGER


def compiles() -> bool:
    """Whether functions are compiled when they are used for the first time."""
    return os.environ.get(NO_COMPILER) != "1"


@contextmanager
def transfer(config: EngineConfig) -> Iterator[None]:
    """While an engine is built, set the variables that NIXL reads; then undo NIXL's CPU pinning."""
    if not config.kv_role or config.kv_transfer != "nixl":
        yield
        return
    os.environ.setdefault("VLLM_NIXL_SIDE_CHANNEL_HOST", "127.0.0.1")
    os.environ["VLLM_NIXL_SIDE_CHANNEL_PORT"] = str(_free_port())
    if not config.devices:
        os.environ.setdefault("UCX_TLS", "sm,self,tcp")
    cores = cores_of_this_process()
    yield
    with may_fail("sched_setaffinity", "the engine's main thread stays where NIXL has put it"):
        os.sched_setaffinity(0, cores)  # NIXL pins the main thread to the last core


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def select_devices(devices: Devices) -> None:
    """Let this process see only its own GPUs. Must be called before anything uses CUDA."""
    if devices:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(device.uuid for device in devices)
