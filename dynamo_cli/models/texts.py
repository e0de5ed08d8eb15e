"""Reads small files of a model's folder, with errors that name the file and the remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

from dynamo_cli.errors import ModelError
from dynamo_cli.host import oserrors

_POINTER = b"version https://git-lfs"
AGAIN = "copy or download it again"


def first_bytes(path: Path, count: int) -> bytes:
    """The beginning of a file.

    Raises:
        ModelError: it is empty, a pointer of Git LFS, or cannot be read.
    """
    try:
        with path.open("rb") as file:
            data = file.read(max(count, len(_POINTER)))
    except FileNotFoundError as error:
        raise ModelError(_missing(path)) from error
    except OSError as error:
        raise ModelError(oserrors.explain(error)) from error
    if not data:
        raise ModelError(f"{path} is empty: {AGAIN}.")
    if data.startswith(_POINTER):
        raise ModelError(
            f"{path} is a pointer of Git LFS, not the file itself: "
            f"run `git lfs pull` in {path.parent}."
        )
    return data


def read_json(path: Path) -> Any:
    """The value in a JSON file.

    Raises:
        ModelError: it cannot be read, or is not JSON.
    """
    first_bytes(path, 1)
    try:
        data = path.read_bytes()
        return orjson.loads(data)
    except OSError as error:
        raise ModelError(oserrors.explain(error)) from error
    except orjson.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        reason = error.msg.partition(": line")[0]
        raise ModelError(f"{path} is not JSON ({reason} at {place}): {AGAIN}.") from error


def read_object(path: Path) -> dict[str, Any]:
    """Like `read_json`, for a file that has to contain an object."""
    found = read_json(path)
    if not isinstance(found, dict):
        raise ModelError(f"{path} holds no JSON object: {AGAIN}.")
    return found


def _missing(path: Path) -> str:
    if path.is_symlink():
        return f"{path} is a link to {path.readlink()}, which is not there: {AGAIN}."
    return f"There is no file {path}."
