"""Checks that all weight files of a folder are there and complete, without reading them whole.

The header of a safetensors file tells how long the file is:

    u64 length of the header | header: JSON, with a range of bytes per tensor | the bytes
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import orjson

from dynamo_cli.errors import ModelError
from dynamo_cli.models.texts import AGAIN, first_bytes, read_object

_LENGTH_BYTES = 8
_MOST_HEADER_BYTES = 100_000_000
"""The limit of the format's own library."""

_SAFETENSORS, _INDEX = "*.safetensors", "model.safetensors.index.json"
_PICKLES = ("*.bin", "*.pt")
_PICKLED = (b"PK", b"\x80")
"""First bytes of a PyTorch file: a zip archive of pickles, or a bare pickle."""

_SHARD = re.compile(r"(.*)-(\d{5})-of-(\d{5})(\.\w+)")
_OF_TRAINING = (
    *("training_args.bin", "optimizer.bin", "scheduler.bin", "optimizer.pt", "scheduler.pt"),
)


def check(folder: Path) -> None:
    """Check every weight file that would be loaded from this folder.

    Raises:
        ModelError: there is none, or one is missing, truncated or of another format.
    """
    index = folder / _INDEX
    files = _indexed(index) if index.exists() else _found(folder)
    if not files:
        raise ModelError(_none(folder))
    _check_shards(files)
    for file in files:
        if file.suffix == ".safetensors":
            _check_safetensors(file)
        elif not first_bytes(file, 2).startswith(_PICKLED):
            raise ModelError(f"{file} is not a PyTorch weight file: {AGAIN}.")


def size_bytes(folder: Path) -> int:
    """Size of all weight files that would be loaded from this folder; 0 if there are none."""
    return sum(file.stat().st_size for file in _found(folder))


def _found(folder: Path) -> list[Path]:
    """The files that vLLM would load: safetensors, or else pickles."""
    for pattern in (_SAFETENSORS, *_PICKLES):
        files = [file for file in sorted(folder.glob(pattern)) if file.name not in _OF_TRAINING]
        if files:
            return files
    return []


def _none(folder: Path) -> str:
    if any(folder.glob("*.gguf")):
        return (
            f"The folder {folder} has its weights as GGUF only, which vLLM does not read: "
            "get the model in its original format, with *.safetensors."
        )
    return f"The folder {folder} has no weights (*.safetensors): {AGAIN}, all of it."


def _indexed(index: Path) -> list[Path]:
    names = read_object(index).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise ModelError(f"{index} names no weights (it has no weight_map): {AGAIN}.")
    files = [index.parent / str(name) for name in dict.fromkeys(names.values())]
    missing = [file.name for file in files if not file.exists()]
    if missing:
        raise ModelError(_some(index.parent, missing, len(files)))
    return files


def _check_shards(files: list[Path]) -> None:
    """Check that all shards are there: ``model-00001-of-00003.safetensors`` needs two more."""
    for file in files:
        if (parts := _SHARD.fullmatch(file.name)) is None:
            continue
        stem, _, count, suffix = parts.groups()
        names = [f"{stem}-{number:05}-of-{count}{suffix}" for number in range(1, int(count) + 1)]
        missing = [name for name in names if not (file.parent / name).exists()]
        if missing:
            raise ModelError(_some(file.parent, missing, len(names)))


def _some(folder: Path, missing: list[str], count: int) -> str:
    more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
    return (
        f"The folder {folder} lacks {missing[0]}{more}, of {count} weight files: "
        "the copy or download is not complete."
    )


def _check_safetensors(file: Path) -> None:
    head = first_bytes(file, _LENGTH_BYTES)
    size = file.stat().st_size
    length = int.from_bytes(head[:_LENGTH_BYTES], "little")
    if size >= _LENGTH_BYTES and length > _MOST_HEADER_BYTES:
        raise _no_safetensors(file)
    if size < _LENGTH_BYTES + length:
        raise ModelError(f"{file} is cut short, in its header: {AGAIN}.")
    header = _header(file, length)
    end = _LENGTH_BYTES + length + _end_of_data(file, header)
    if size < end:
        raise ModelError(f"{file} is cut short: it has {size} of {end} bytes; {AGAIN}.")
    if size > end:
        raise ModelError(f"{file} is broken: it has {size} bytes and should have {end}; {AGAIN}.")


def _header(file: Path, length: int) -> dict[str, Any]:
    data = first_bytes(file, _LENGTH_BYTES + length)[_LENGTH_BYTES:]
    try:
        found = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise _no_safetensors(file) from error
    if not isinstance(found, dict):
        raise _no_safetensors(file)
    return found


def _end_of_data(file: Path, header: dict[str, Any]) -> int:
    """Total size of the tensors, which follow each other without gaps."""
    try:
        ends = [
            int(tensor["data_offsets"][1])
            for name, tensor in header.items()
            if name != "__metadata__"
        ]
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise _no_safetensors(file) from error
    return max(ends, default=0)


def _no_safetensors(file: Path) -> ModelError:
    return ModelError(f"{file} is not a safetensors file, its header is broken: {AGAIN}.")
