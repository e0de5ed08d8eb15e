"""From our configuration to vLLM's: argument namespace, then `VllmConfig`."""

from __future__ import annotations

import argparse
import json
import os
from typing import NoReturn

from vllm.config import VllmConfig
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
from vllm.entrypoints.launchers.launcher import validate_api_server_args
from vllm.platforms import current_platform
from vllm.reasoning import ReasoningParserManager
from vllm.tool_parsers import ToolParserManager
from vllm.usage.usage_lib import UsageContext
from vllm.utils.argparse_utils import FlexibleArgumentParser

from dynamo_cli.config import FULL_CONTEXTS, LEAST_KV_BYTES, EngineConfig
from dynamo_cli.engines.vllm.prefill import transfer_config
from dynamo_cli.errors import ModelError, UsageError

KV_SPACE_VARIABLE = "VLLM_CPU_KVCACHE_SPACE"


class _Parser(FlexibleArgumentParser):  # type: ignore[misc]
    """vLLM's parser, which raises instead of ending the process."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"vLLM does not take these engine options: {message}.")


def parse(config: EngineConfig) -> argparse.Namespace:
    """vLLM's own namespace for this engine.

    Raises:
        UsageError: an option or value that vLLM refuses.
    """
    arguments = ["--model", config.path, "--served-model-name", *config.served_names, *config.args]
    if config.tensor_parallel > 1:
        arguments += ["--tensor-parallel-size", str(config.tensor_parallel)]
    if config.kv_role:
        arguments += ["--kv-transfer-config", json.dumps(transfer_config(config))]
    try:
        namespace = make_arg_parser(_Parser()).parse_args(arguments)
        validate_parsed_serve_args(namespace)
    except (ValueError, TypeError) as error:
        raise UsageError(
            f"vLLM does not take these engine options: {first_line(error)}."
        ) from error
    # Measured cached tokens are part of every answer's usage.
    namespace.enable_prompt_tokens_details = True
    assert isinstance(namespace, argparse.Namespace)
    return namespace


def check_parsers(namespace: argparse.Namespace) -> None:
    """Load the parsers of tool calls and reasoning that the user brings, and check the names.

    Raises:
        UsageError: there is no such parser.
    """
    if namespace.tool_parser_plugin:
        ToolParserManager.import_tool_parser(namespace.tool_parser_plugin)
    if namespace.reasoning_parser_plugin:
        ReasoningParserManager.import_reasoning_parser(namespace.reasoning_parser_plugin)
    # vLLM looks at the first name only if tools may be called unasked.
    named = {"enable_auto_tool_choice": namespace.tool_call_parser is not None}
    try:
        validate_api_server_args(argparse.Namespace(**(vars(namespace) | named)))
    except KeyError as error:
        raise UsageError(f"{error.args[0]}.") from error


def engine_config(namespace: argparse.Namespace, config: EngineConfig) -> VllmConfig:
    """The checked configuration of an engine; reads the model's config files.

    Raises:
        ModelError: the model cannot be found, or does not fit the options.
    """
    try:
        vllm_config = AsyncEngineArgs.from_cli_args(namespace).create_engine_config(
            UsageContext.OPENAI_API_SERVER
        )
    except (ValueError, OSError, NotImplementedError) as error:
        raise ModelError(explain(error, config.model)) from error
    cache = vllm_config.cache_config
    sized = cache.kv_cache_memory_bytes is not None or KV_SPACE_VARIABLE in os.environ
    if config.kv_cache_limit_bytes and not sized:
        wanted = (
            FULL_CONTEXTS * vllm_config.model_config.max_model_len * _bytes_per_token(vllm_config)
        )
        cache.kv_cache_memory_bytes = max(LEAST_KV_BYTES, min(wanted, config.kv_cache_limit_bytes))
    return vllm_config


def _bytes_per_token(vllm_config: VllmConfig) -> int:
    """Of the KV cache, for a model that keeps every token in every layer."""
    model, parallel = vllm_config.model_config, vllm_config.parallel_config
    values = (
        model.get_num_layers(parallel) * model.get_num_kv_heads(parallel) * model.get_head_size()
    )
    return 2 * int(values) * int(model.dtype.itemsize)


def scores_prompts(vllm_config: VllmConfig) -> bool:
    """Whether the engine can give log probabilities of prompts.

    On a CPU vLLM's LoRA layers expect one row of logits per request there, and end the engine.
    """
    return vllm_config.lora_config is None or not current_platform.is_cpu()


def explain(error: Exception, model: str) -> str:
    """One sentence for people from one of vLLM's or transformers' multi-line messages."""
    text = first_line(error)
    if isinstance(error, OSError):
        return (
            f"the model {model!r} cannot be read: {text} "
            "Give a Hugging Face id, a folder with config.json, or try --model demo."
        )
    return f"vLLM cannot use the model {model!r} with these options: {text}"


def first_line(error: BaseException) -> str:
    """The line of a message that says something.

    pydantic prints "1 validation error for X" and the field first, the cause after them.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    if "validation error" in lines[0]:
        causes = [line for line in lines[1:] if line.startswith("Value error")]
        lines = causes or lines[1:] or lines
    return lines[0].removeprefix("Value error, ").split(" [type=")[0]
