"""Makes vLLM's configuration from ours: first its argument namespace, then its `VllmConfig`."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
from pathlib import Path
from typing import NoReturn

from vllm.config import VllmConfig
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.exceptions import VLLMError
from vllm.platforms import current_platform
from vllm.reasoning import ReasoningParserManager
from vllm.tool_parsers import ToolParserManager
from vllm.usage.usage_lib import UsageContext
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm.utils.import_utils import import_from_path

from dynamo_cli.config import FULL_CONTEXTS, LEAST_KV_BYTES, EngineConfig
from dynamo_cli.engines.vllm import refusals, versions
from dynamo_cli.engines.vllm.options.transfer_config import transfer_config
from dynamo_cli.errors import UsageError

_cli_args = versions.module("cli_args")

_PYDANTIC = re.compile(r"\[type=[^\]]*\]|For further information visit \S+")
"""What pydantic adds to each reason; it does not help users."""

_SEVERAL = 2
"""The least number of API processes for which vLLM keeps images out of engines."""

KV_SPACE_VARIABLE = "VLLM_CPU_KVCACHE_SPACE"
"""vLLM's variable for the size of the KV cache on a CPU, in GiB."""


class _Parser(FlexibleArgumentParser):  # type: ignore[misc]
    """vLLM's parser, except that errors are raised and do not end the process."""

    def error(self, message: str) -> NoReturn:
        text = " ".join(_PYDANTIC.sub("", message).split()).rstrip(".")
        raise UsageError(f"vLLM does not take these engine options: {text}.")


def parse(config: EngineConfig) -> argparse.Namespace:
    """The namespace of vLLM's own parser for this engine.

    Raises:
        UsageError: vLLM refuses an option or a value.
    """
    arguments = ["--model", config.path, "--served-model-name", *config.served_names, *config.args]
    if config.tensor_parallel > 1:
        arguments += ["--tensor-parallel-size", str(config.tensor_parallel)]
    if (transfer := transfer_config(config)) is not None:
        arguments += ["--kv-transfer-config", json.dumps(transfer)]
    try:
        namespace = _cli_args.make_arg_parser(_Parser()).parse_args(arguments)
        _cli_args.validate_parsed_serve_args(namespace)
    except (ValueError, TypeError, VLLMError) as error:
        text = refusals.reason(error).removeprefix("Error: ").rstrip(".")
        raise UsageError(f"vLLM does not take these engine options: {text}.") from error
    # The usage of every answer says how many prompt tokens were cached.
    namespace.enable_prompt_tokens_details = True
    assert isinstance(namespace, argparse.Namespace)
    return namespace


def check_parsers(namespace: argparse.Namespace) -> None:
    """Load plugins with parsers of tool calls or reasoning, and check the names of the parsers.

    Raises:
        UsageError: there is no such parser, or it cannot be loaded.
    """
    _load("--tool-parser-plugin", namespace.tool_parser_plugin)
    _load("--reasoning-parser-plugin", namespace.reasoning_parser_plugin)
    for flag, name, known in (
        ("--tool-call-parser", namespace.tool_call_parser, ToolParserManager),
        ("--reasoning-parser", namespace.reasoning_parser, ReasoningParserManager),
    ):
        names = known.list_registered()
        if name and name not in names:
            raise UsageError(f"{flag} cannot be {name!r}; it is one of {', '.join(names)}.")


def _load(flag: str, plugin: str | None) -> None:
    """Load a plugin, or refuse to start; vLLM itself would go on without it."""
    if not plugin:
        return
    try:
        try:
            importlib.import_module(plugin)
        except ModuleNotFoundError:
            import_from_path(Path(plugin).stem, plugin)
    except Exception as error:
        raise UsageError(
            f"{flag} {plugin} cannot be loaded: {type(error).__name__}: {refusals.reason(error)}"
        ) from error


def engine_config(namespace: argparse.Namespace, config: EngineConfig) -> VllmConfig:
    """The checked configuration of an engine; reads the model's config files.

    Raises:
        Exception: the model cannot be found, or does not fit the options; `refusals` turns it into
            one of our errors.
    """
    vllm_config = AsyncEngineArgs.from_cli_args(namespace).create_engine_config(
        UsageContext.OPENAI_API_SERVER
    )
    _keep_images_in_processors(vllm_config)
    cache = vllm_config.cache_config
    sized = cache.kv_cache_memory_bytes is not None or KV_SPACE_VARIABLE in os.environ
    if config.kv_cache_limit_bytes and not sized:
        wanted = (
            FULL_CONTEXTS * vllm_config.model_config.max_model_len * _bytes_per_token(vllm_config)
        )
        cache.kv_cache_memory_bytes = max(LEAST_KV_BYTES, min(wanted, config.kv_cache_limit_bytes))
    return vllm_config


def _keep_images_in_processors(vllm_config: VllmConfig) -> None:
    """Have each request bring the data of its images, whichever worker gets it.

    With one API process, vLLM sends an image once and later only its hash, since the one engine
    still has it. Here any of several workers, or one that was restarted, gets the next request.
    With several API processes, vLLM keeps the images (``--mm-processor-cache-gb``) in each of those
    and sends the data each time. The number has little other effect: it divides
    ``--mm-ipc-gpu-memory-gb``, workers reserve memory for as many video decoders on their GPU, and
    with ``VLLM_CPU_SIM_MULTI_NUMA`` it divides the cores.
    """
    if vllm_config.model_config.supports_multimodal_inputs:
        vllm_config.parallel_config._api_process_count = _SEVERAL


def _bytes_per_token(vllm_config: VllmConfig) -> int:
    """Bytes of KV cache per token, for a model that keeps every token in every layer."""
    model, parallel = vllm_config.model_config, vllm_config.parallel_config
    values = (
        model.get_num_layers(parallel) * model.get_num_kv_heads(parallel) * model.get_head_size()
    )
    return 2 * int(values) * int(model.dtype.itemsize)


def scores_prompts(vllm_config: VllmConfig) -> bool:
    """Whether the engine can compute log probabilities of prompts.

    On a CPU, vLLM's LoRA layers expect one row of logits per request; more rows end the engine.
    """
    return vllm_config.lora_config is None or not current_platform.is_cpu()
