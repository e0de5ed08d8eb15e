"""Finds the files of the model that ``--model`` names.

Files that are here are found in milliseconds. A child process
(`dynamo_cli.models.__main__`) fetches or writes the built-in models, so that this process need not
import the libraries for that.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynamo_cli.config import BUILT_IN_MODELS
from dynamo_cli.errors import ModelError, ModelUnreachable
from dynamo_cli.host import lifeline, oserrors
from dynamo_cli.models import demo, soundness
from dynamo_cli.models.folder import models_root
from dynamo_cli.models.progress import OnProgress, Progress

# Folders in our cache. The number at the end is the version of their contents.
DEMO = "smollm2-135m-instruct-2"
TINY = "tiny-1"
# A folder with one of these files is a model, in Hugging Face's format or in Mistral's.
CONFIGS = (soundness.CONFIG, soundness.MISTRAL_CONFIG)
_BUCKETS = ("s3", "gs", "az")
_FILES = (".gguf", ".safetensors", ".bin", ".pt")


@dataclass(frozen=True, slots=True)
class ResolvedModel:
    """A model in the form that vLLM takes.

    Attributes:
        path: a folder, or a name that vLLM resolves itself, such as a Hugging Face id.
        served_name: its default name in the API: the name as typed.
    """

    path: str
    served_name: str


def resolve(model: str, on_progress: OnProgress) -> ResolvedModel:
    """Find `model`; ``demo`` and ``tiny`` are fetched or written when they are not here yet.

    Args:
        on_progress: called in this thread, and only when there is something to wait for.

    Raises:
        ModelError: the path is not a model.
        ModelUnreachable: the model is not here and cannot be fetched.
    """
    if model in BUILT_IN_MODELS:
        found = ready(model)
        return ResolvedModel(str(found) if found else _fetch(model, on_progress), model)
    return ResolvedModel(locate(model, ask_hub=True), model)


def ready(model: str) -> Path | None:
    """The folder of ``demo`` or ``tiny``; None when it has to be fetched or written first."""
    if model == "demo" and (cached := demo.cached()):
        return cached
    folder = models_root() / (DEMO if model == "demo" else TINY)
    return folder if folder.is_dir() else None


def folder_of(model: str, *, ask_hub: bool) -> Path | None:
    """The folder of the model's files; None when serving has to fetch them.

    Args:
        ask_hub: whether to check that the hub answers for a model that is not here.

    Raises:
        ModelError: the path is not a model.
        ModelUnreachable: a model of the hub that is not here, and the hub does not answer.
    """
    if model in BUILT_IN_MODELS:
        return ready(model)
    path = Path(locate(model, ask_hub=ask_hub))
    if path.is_dir():
        return path
    snapshots = demo.cache_of(model) / "snapshots"
    folders = sorted(snapshots.glob("*/config.json"), key=lambda file: file.stat().st_mtime)
    return folders[-1].parent if folders else None


def locate(model: str, *, ask_hub: bool) -> str:
    """Find `model` without fetching anything: a folder, or a name that vLLM resolves.

    Args:
        ask_hub: whether to check that the hub answers for a model that is not here.

    Raises:
        ModelError: the path is not a model.
        ModelUnreachable: a model of the hub that is not here, and the hub does not answer.
    """
    _check_address(model)
    path = expanded(model)
    try:
        if is_path(model) or path.is_dir():
            _check_path(path)
            return str(path)
    except OSError as error:
        raise ModelError(oserrors.explain(error)) from error
    _check_hub(model, ask=ask_hub)
    return model


def expanded(name: str) -> Path:
    """A path with its ``~`` replaced.

    Raises:
        ModelError: the home directory is unknown.
    """
    try:
        return Path(name).expanduser()
    except RuntimeError as error:
        raise ModelError(
            f"There is no folder {name}: the home directory for its ~ is unknown."
        ) from error


def _check_address(model: str) -> None:
    scheme, found, rest = model.partition("://")
    if not found or scheme in _BUCKETS:
        return
    if scheme == "file":
        raise ModelError(
            f"{model} is a URL; give the folder as a path: --model /{rest.lstrip('/')}."
        )
    name = "/".join(rest.split("/")[1:3])
    hint = f" (perhaps {name})" if scheme in ("http", "https") and name else ""
    raise ModelError(f"{model} is a URL; give a Hugging Face id{hint} or a folder.")


def _check_path(path: Path) -> None:
    if path.is_file():
        raise ModelError(_why_no_file(path))
    if not path.is_dir():
        raise ModelError(f"There is no folder {path}.")
    if not any((path / name).is_file() for name in CONFIGS):
        raise ModelError(soundness.why_no_model(path))


def is_path(model: str) -> bool:
    """Whether a name can only be a path: names on a hub are ``name`` or ``owner/name``."""
    if "://" in model:
        return False
    deep = model.count("/") > 1
    return deep or model.startswith(("/", "./", "../", "~")) or model.endswith(_FILES)


def _why_no_file(path: Path) -> str:
    if path.suffix == ".gguf":
        return f"{path} is a GGUF file: {soundness.NO_GGUF}"
    if any((path.parent / name).is_file() for name in CONFIGS):
        return f"{path} is one file of a model: give its folder, {path.parent}."
    return f"{path} is a file; a model is a folder with config.json."


def _check_hub(model: str, *, ask: bool) -> None:
    """Fail early when the hub does not answer: its library would retry for half a minute."""
    elsewhere = "://" in model or "VLLM_USE_MODELSCOPE" in os.environ
    if elsewhere or not ask or demo.cache_of(model).is_dir():
        return
    from dynamo_cli.models import hub  # noqa: PLC0415 - a slow import, needed only here

    if not hub.answers():
        raise ModelUnreachable(
            f"The model {model!r} is not in the Hugging Face cache, and the hub does not answer. "
            "Give a folder with config.json, or try --model demo."
        )


def _fetch(model: str, on_progress: OnProgress) -> str:
    # Not `command_of`: this child is to tidy up when its parent ends, and SIGKILL would not let it.
    command = [*lifeline.PYTHON, "-m", "dynamo_cli.models", model, str(os.getpid())]
    child = lifeline.run_reporting(command, lambda reports: _follow(reports, on_progress))
    if child.found is None:
        last_line = (child.log.strip().splitlines() or ["it ended without a message"])[-1]
        raise ModelUnreachable(
            f"{model} could not be prepared: {last_line} (exit code {child.exit_code})."
        )
    return child.found


def _follow(reports: Iterable[Any], on_progress: OnProgress) -> str | None:
    """Pass on the child's progress; its last report is the path, or why there is none."""
    for report in reports:
        match report:
            case {"path": path}:
                return str(path)
            case {"error": message}:
                raise ModelUnreachable(message)
            case {"stage": stage, "fraction": fraction}:
                on_progress(Progress(stage, fraction))
    return None
