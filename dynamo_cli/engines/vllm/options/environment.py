"""The environment that vLLM reads when it is imported; set before, once, by whoever imports it."""

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
"""Makes `torch.compile` give back what it was given; read when a function is defined."""


def prepare(config: EngineConfig) -> None:
    """Set what the user has not set; `config` is any engine's: they differ in devices only."""
    values = {
        # EngineCore runs in our own loop; its own process and sockets are not wanted.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        # Ranks of an engine on several devices: all that they import is there already, and the
        # process that forks them has neither threads nor a CUDA context.
        "VLLM_WORKER_MULTIPROC_METHOD": "fork",
        "VLLM_NO_USAGE_STATS": "1",
        # Else CUDA counts the fastest GPU first, and NVML, which vLLM asks too, the first slot.
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        # Our handler formats all logs, so that the supervisor can tell level and text apart.
        "VLLM_CONFIGURE_LOGGING": "0",
        "VLLM_LOGGING_LEVEL": config.log_level,
        # Both are in the folder for temporary files otherwise, where they would stay behind.
        "TORCHINDUCTOR_CACHE_DIR": str(cache_root() / "torchinductor"),
        "TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS": "0",
        # The tokenizer's threads would be forked half-way; the processor has its own.
        "TOKENIZERS_PARALLELISM": "false",
    }
    if config.threads:
        values["OMP_NUM_THREADS"] = str(config.threads)
        # Pinned threads of several engines end up on the same cores.
        values["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
    if _eager(config) and not config.devices:
        # The option is about the model alone: without this, functions of the sampler are compiled
        # while requests wait, and where there is no C++ compiler the engine ends.
        values[NO_COMPILER] = "1"
    for name, value in values.items():
        os.environ.setdefault(name, value)
    _forget_services()


def _forget_services() -> None:
    """Kubernetes tells of a Service named ``vllm`` in a variable that vLLM takes for a port."""
    if "://" in os.environ.get("VLLM_PORT", ""):
        del os.environ["VLLM_PORT"]


def _eager(config: EngineConfig) -> bool:
    """Nothing is to be compiled; of two options the later one counts, as for vLLM."""
    chosen = [arg for arg in config.args if arg in (EAGER, COMPILED)]
    return bool(chosen) and chosen[-1] == EAGER


def compiles() -> bool:
    """Whether functions that are used for the first time are compiled."""
    return os.environ.get(NO_COMPILER) != "1"


@contextmanager
def transfer(config: EngineConfig) -> Iterator[None]:
    """What NIXL wants to know, and what it changes, while an engine is built."""
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
        os.sched_setaffinity(0, cores)  # it pins the main thread to the last one


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def select_devices(devices: Devices) -> None:
    """Let this process see only its own GPUs; before anything touches CUDA."""
    if devices:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(device.uuid for device in devices)
