"""Imports what every engine process and every processor needs, once, in the zygote that forks them.

Nothing here may use CUDA: after that, a forked child could not use CUDA.
"""

from contextlib import suppress

import torch
import vllm.entrypoints.anthropic.serving
import vllm.entrypoints.launchers.api_server.app_state
import vllm.entrypoints.openai.responses.serving
import vllm.model_executor.layers.quantization.online.base
import vllm.model_executor.models.llama
import vllm.platforms
import vllm.v1.engine.async_llm
import vllm.v1.engine.core

import dynamo_cli.engines.vllm.core.engine  # noqa: F401

with suppress(ImportError):  # it needs an optional package; `identity` changes it in processors
    import vllm.parser.mistral

if vllm.platforms.current_platform.is_cpu():
    import vllm.v1.worker.cpu_worker


def check_fork() -> None:
    """Assert before each fork that there is no CUDA context, which a child could not use."""
    assert not torch.cuda.is_initialized(), "the zygote has initialised CUDA"
