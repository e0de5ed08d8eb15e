"""The environment that vLLM reads when it is imported; set before, once, by whoever imports it."""

from __future__ import annotations

import os

from dynamo_cli.cache import cache_root
from dynamo_cli.config import EngineConfig


def prepare(config: EngineConfig) -> None:
    """Set what the user has not set; `config` is any engine's: they differ in devices only."""
    values = {
        # EngineCore runs in our own loop; its own process and sockets are not wanted.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        # Tensor-parallel ranks of an engine: a fork of a process with threads is not safe.
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
        "VLLM_NO_USAGE_STATS": "1",
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
    for name, value in values.items():
        os.environ.setdefault(name, value)


def select_devices(devices: tuple[int, ...]) -> None:
    """Let this process see only its own GPUs; before anything touches CUDA."""
    if devices:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, devices))
