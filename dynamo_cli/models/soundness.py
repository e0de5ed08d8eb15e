"""Checks a model's folder within a second, so that errors are reported before vLLM is started.

It reads names, sizes, small files, and the headers of large files.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dynamo_cli.errors import ModelError
from dynamo_cli.host import oserrors
from dynamo_cli.models import templates, weights
from dynamo_cli.models.texts import first_bytes, read_json, read_object

CONFIG, MISTRAL_CONFIG = "config.json", "params.json"
ADAPTER_CONFIG = "adapter_config.json"
TOKENIZER, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"

TOKENIZERS = (
    *(TOKENIZER, "tokenizer.model", "tokenizer.model.v3", "tekken.json", "vocab.json", "vocab.txt"),
    *("spiece.model", "sentencepiece.bpe.model", "vocab.spm", "merges.txt"),
)
_OTHER_TOKENIZERS = ("*.tiktoken", "tokenizer*.py", "tokenization*.py", "tokenizer.model.*")

_JSON = (
    *(TOKENIZER_CONFIG, "special_tokens_map.json", "added_tokens.json"),
    *("generation_config.json", "preprocessor_config.json", "processor_config.json"),
)
_TEMPLATE = "chat_template.jinja"
_TEXTS = (_TEMPLATE, "tokenizer.model", "merges.txt", "tekken.json", "vocab.json")


@dataclass(frozen=True, slots=True)
class Needed:
    """The parts that are loaded from the folder; other parts may be missing or broken.

    Attributes:
        config: its ``config.json``; not needed when another one is named.
    """

    config: bool = True
    weights: bool = True
    tokenizer: bool = True


def check(folder: Path, needed: Needed = Needed()) -> None:
    """Check everything that is loaded from this folder.

    Raises:
        ModelError: something is missing or broken; the message names the file and what to do.
    """
    try:
        names = {path.name for path in folder.iterdir()}
    except OSError as error:
        raise ModelError(oserrors.explain(error)) from error
    if needed.config:
        _check_config(folder, names)
    for name in _JSON:
        if name in names:
            read_json(folder / name)
    if needed.tokenizer:
        _check_tokenizer(folder, names)
        _check_templates(folder, names)
    if needed.weights:
        weights.check(folder)


def check_tokenizer(folder: Path) -> None:
    """Like `check`, for a folder from which only the tokenizer is loaded."""
    check(folder, Needed(config=False, weights=False))


def check_adapter(folder: Path) -> None:
    """Like `check`, for the folder of a LoRA adapter.

    Raises:
        ModelError: it is not an adapter, or it is broken.
    """
    if not (folder / ADAPTER_CONFIG).is_file():
        raise ModelError(f"The folder {folder} holds no LoRA adapter: it has no {ADAPTER_CONFIG}.")
    read_object(folder / ADAPTER_CONFIG)
    weights.check(folder)


def why_no_model(folder: Path) -> str:
    """A sentence that says why a folder without ``config.json`` is not a model."""
    if (folder / ADAPTER_CONFIG).is_file():
        base = _base_of(folder / ADAPTER_CONFIG)
        return (
            f"The folder {folder} holds a LoRA adapter only: give its base model with --model "
            f"({base}), and --enable-lora --lora-modules NAME={folder}."
        )
    if (folder / "snapshots").is_dir():
        return (
            f"The folder {folder} is a repository in the Hugging Face cache; the model is in one "
            f"of the folders below {folder / 'snapshots'}."
        )
    if (folder / "model_index.json").is_file():
        return f"The folder {folder} holds an image generation model, which vLLM does not serve."
    if any(folder.glob("*.gguf")):
        return f"The folder {folder} holds GGUF only: {NO_GGUF}"
    below = sorted(path.parent for path in folder.glob(f"*/{CONFIG}"))
    hint = f" Did you mean {below[0]}?" if below else ""
    return f"The folder {folder} holds no model: it has no {CONFIG}.{hint}"


NO_GGUF = "vLLM does not read it. Get the model in its original format: a folder with config.json."


def _base_of(file: Path) -> str:
    try:
        return str(read_object(file).get("base_model_name_or_path") or "see its README")
    except ModelError:
        return "see its README"


def _check_config(folder: Path, names: set[str]) -> None:
    if CONFIG not in names:
        if MISTRAL_CONFIG in names:
            read_object(folder / MISTRAL_CONFIG)
            return
        raise ModelError(why_no_model(folder))
    config = read_object(folder / CONFIG)
    if not config.get("model_type") and not config.get("auto_map"):
        raise ModelError(
            f"{folder / CONFIG} does not say which model it is: it has no model_type. "
            "Copy or download it again."
        )


def _check_tokenizer(folder: Path, names: set[str]) -> None:
    if not names & {*TOKENIZERS} and not any(
        any(folder.glob(pattern)) for pattern in _OTHER_TOKENIZERS
    ):
        raise ModelError(
            f"The folder {folder} has no tokenizer ({TOKENIZER} or tokenizer.model): "
            "copy or download it, or name another folder with --tokenizer."
        )
    for name in _TEXTS:
        if name in names:
            first_bytes(folder / name, 1)
    if TOKENIZER in names and "model" not in read_object(folder / TOKENIZER):
        raise ModelError(
            f"{folder / TOKENIZER} holds no tokenizer (it has no `model`): "
            "copy or download it again."
        )


def _check_templates(folder: Path, names: set[str]) -> None:
    if _TEMPLATE in names:
        templates.check_file(folder / _TEMPLATE)
    if TOKENIZER_CONFIG in names:
        found = read_object(folder / TOKENIZER_CONFIG).get("chat_template")
        if isinstance(found, str):
            templates.check(found, f"chat_template in {folder / TOKENIZER_CONFIG}")
