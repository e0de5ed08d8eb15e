"""The options of the log file. Pure, but for looking whether its folder is there."""

from __future__ import annotations

from pathlib import Path

from dynamo_cli.errors import UsageError
from dynamo_cli.plan.sizes import size_of
from dynamo_cli.plan.typed import Typed
from dynamo_cli.units import KIB

FLAG, SIZE_FLAG = "--log-file", "--log-file-size"

LEAST_BYTES = 64 * KIB
"""The smallest size: a burst of lines fits into one file."""


def check(typed: Typed) -> None:
    """Check the options of the log file.

    Raises:
        UsageError: they cannot be followed; the message says why.
    """
    if typed.log_file is not None:
        check_place(FLAG, typed.log_file)
    elif typed.log_file_size != Typed.log_file_size:
        raise UsageError(f"{SIZE_FLAG} works only with {FLAG}.")
    limit_bytes(typed)


def limit_bytes(typed: Typed) -> int:
    """Size of the file at which a new one begins.

    Raises:
        UsageError: it is no size, or too small.
    """
    size = size_of(SIZE_FLAG, typed.log_file_size)
    if size < LEAST_BYTES:
        raise UsageError(f"{SIZE_FLAG} must be at least 64KiB; not {typed.log_file_size!r}.")
    return size


def check_place(flag: str, file: Path) -> None:
    """Check that a file which is to be written can be where it is wanted.

    Raises:
        UsageError: it cannot.
    """
    if file.is_dir():
        raise UsageError(f"{flag} {file} is a folder; it takes a file.")
    if not file.parent.is_dir():
        raise UsageError(f"{flag} {file}: there is no folder {file.parent}.")
