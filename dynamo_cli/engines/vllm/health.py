"""``python -m dynamo_cli.engines.vllm.health``: checks whether vLLM's installation works.

It writes JSON to standard output, one object a line: ``{"step"}`` before a step, and after it
``{"step", "ok", "detail"}``. It is a process of its own because a step may crash it; then the
second line of that step is missing. Standard input may hold the configuration of an engine as JSON:
then vLLM also checks these options for that model.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import sys
from collections.abc import Callable

from dynamo_cli.errors import DynamoError, UsageError

SERVING = "model and options"

COMPANIONS = ("torchvision", "torchaudio", "torchcodec")
"""Packages that transformers imports, and that work only with the torch they were built for."""


def main() -> None:
    """Run all steps, also those after one that fails."""
    _try("torch", _torch)
    for name in COMPANIONS:
        if importlib.util.find_spec(name) is not None:
            _try(name, _importing(name))
    _try("transformers", _transformers)
    _try("vllm", _vllm)
    _try("first token", _first_token)
    _try("engine options", _engine_options)
    if text := sys.stdin.read():
        _try(SERVING, _taking(text))


def _try(step: str, attempt: Callable[[], str]) -> None:
    _say({"step": step})
    try:
        detail, ok = attempt(), True
    except DynamoError as error:
        detail, ok = error.message, False
    except Exception as error:  # noqa: BLE001 - each failure is a finding
        detail, ok = f"{type(error).__name__}: {error}", False
    _say({"step": step, "ok": ok, "detail": " ".join(detail.split())[:400]})


def _say(message: dict[str, str | bool]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def _importing(name: str) -> Callable[[], str]:
    def attempt() -> str:
        return str(getattr(importlib.import_module(name), "__version__", ""))

    return attempt


def _torch() -> str:
    import torch  # noqa: PLC0415 - each import is one of the things that are tried

    return f"{torch.__version__}, CUDA {torch.version.cuda or 'none'}"


def _transformers() -> str:
    import transformers  # noqa: PLC0415
    from transformers import LlamaForCausalLM  # noqa: PLC0415 - this is what fails

    return f"{transformers.__version__}, {LlamaForCausalLM.__name__}"


def _vllm() -> str:
    import vllm  # noqa: PLC0415
    from vllm.platforms import current_platform  # noqa: PLC0415

    importlib.import_module("dynamo_cli.engines.vllm.core.preload")
    return f"{vllm.__version__} for {current_platform.device_type or 'no device'}"


def _first_token() -> str:
    """Multiply one row in bfloat16, as for the first token of an answer.

    On CPUs with AMX this ends in an illegal instruction unless AMX was initialized before.
    """
    import torch  # noqa: PLC0415

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and hasattr(torch.cpu, "_init_amx"):
        torch.cpu._init_amx()
    weights = torch.ones(64, 64, dtype=torch.bfloat16, device=device)
    total = float((weights[:1] @ weights).sum())
    assert total == 64 * 64, total
    return f"bfloat16 on {torch.cuda.get_device_name() if device == 'cuda' else device}"


def _engine_options() -> str:
    from dynamo_cli.engines.vllm.options import declared, generate  # noqa: PLC0415

    if changed := generate.changed():
        raise UsageError(f"vLLM's options differ from the known ones: {', '.join(changed)}")
    return f"{len(declared.known())} flags"


def _taking(text: str) -> Callable[[], str]:
    def attempt() -> str:
        import msgspec  # noqa: PLC0415

        from dynamo_cli.config import EngineConfig  # noqa: PLC0415
        from dynamo_cli.engines.vllm import refusals  # noqa: PLC0415
        from dynamo_cli.engines.vllm.options import arguments  # noqa: PLC0415

        config = msgspec.json.decode(text, type=EngineConfig)
        with refusals.named(config.model):
            namespace = arguments.parse(config)
            arguments.check_parsers(namespace)
            arguments.engine_config(namespace, config)
        return "vLLM takes them; the weights were not loaded"

    return attempt


if __name__ == "__main__":
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    main()
