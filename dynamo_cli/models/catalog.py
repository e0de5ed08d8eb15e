"""``--model X`` -> where the files of X are.

What is already there is found in milliseconds. What must be fetched or written first is the work
of a child process (`dynamo_cli.models.__main__`), so that this one never imports what that needs.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from dynamo_cli.config import BUILT_IN_MODELS
from dynamo_cli.errors import ModelError
from dynamo_cli.models import demo
from dynamo_cli.models.folder import models_root
from dynamo_cli.models.lifeline import PYTHON, end
from dynamo_cli.models.progress import OnProgress, Progress

# Folders in our cache. The number at the end is the version of what we write there.
DEMO = "smollm2-135m-instruct-1"
TINY = "tiny-1"
# One of these makes a folder a model: Hugging Face's format or Mistral's.
CONFIGS = ("config.json", "params.json")


@dataclass(frozen=True, slots=True)
class ResolvedModel:
    """A model as vLLM takes it.

    Attributes:
        path: a folder, a file, or a Hugging Face id that vLLM itself finds.
        served_name: what the API calls it unless the user says otherwise: the name as typed.
    """

    path: str
    served_name: str


def resolve(model: str, on_progress: OnProgress) -> ResolvedModel:
    """Finds `model`; ``demo`` and ``tiny`` are fetched or written when they are not there yet.

    Args:
        on_progress: called from this thread, and only when there is something to wait for.

    Raises:
        ModelError: a folder that is no model, or a demo model that cannot be had.
    """
    if model in BUILT_IN_MODELS:
        found = ready(model)
        return ResolvedModel(str(found) if found else _fetch(model, on_progress), model)
    return ResolvedModel(_path(model), model)


def ready(model: str) -> Path | None:
    """The folder of ``demo`` or ``tiny`` when it is complete already."""
    if model == "demo" and (cached := demo.cached()):
        return cached
    folder = models_root() / (DEMO if model == "demo" else TINY)
    return folder if folder.is_dir() else None


def _path(model: str) -> str:
    """`model` with ``~`` expanded, checked when it can only be meant as a path."""
    path = Path(model).expanduser()
    if not (model.startswith(("/", "./", "../", "~")) or path.is_dir()):
        _check_hub(model)
        return model
    if not path.exists():
        raise ModelError(f"There is no folder {path}.")
    if path.is_dir() and not any((path / name).is_file() for name in CONFIGS):
        raise ModelError(f"The folder {path} holds no model: it has no config.json.")
    return str(path)


def _check_hub(model: str) -> None:
    """Where no hub can be asked for a model, its library would go on trying for half a minute."""
    elsewhere = "://" in model or "VLLM_USE_MODELSCOPE" in os.environ
    if elsewhere or demo.cache_of(model).is_dir():
        return
    from dynamo_cli.models import hub  # noqa: PLC0415 - takes a while, as the download will

    if not hub.answers():
        raise ModelError(
            f"The model {model!r} is not in the Hugging Face cache, and the hub does not answer. "
            "Give a folder with config.json, or try --model demo."
        )


def _fetch(model: str, on_progress: OnProgress) -> str:
    command = [*PYTHON, "-m", "dynamo_cli.models", model, str(os.getpid())]
    with (
        tempfile.TemporaryFile("w+") as log,
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True
        ) as child,
    ):
        assert child.stdout is not None
        try:
            path = _follow(child.stdout, on_progress)
            code = child.wait()
        finally:
            end(child)
        if path is None:
            raise ModelError(
                f"{model} could not be prepared: {_last_line(log)} (exit code {code})."
            )
    return path


def _follow(lines: IO[str], on_progress: OnProgress) -> str | None:
    """Passes on what the child reports; its last line is the path or what went wrong."""
    for line in lines:
        match json.loads(line):
            case {"path": path}:
                return str(path)
            case {"error": message}:
                raise ModelError(message)
            case {"stage": stage, "fraction": fraction}:
                on_progress(Progress(stage, fraction))
    return None


def _last_line(log: IO[str]) -> str:
    log.seek(0)
    return (log.read().strip().splitlines() or ["it ended without a word"])[-1]
