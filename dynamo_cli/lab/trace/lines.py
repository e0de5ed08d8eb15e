"""Reads the lines of a trace from a file, a pipe or gzip, in one pass."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from dynamo_cli.errors import UsageError

STDIN = "-"
MAX_LINE_BYTES = 32 * 1024 * 1024
"""Longest line, which is more than a million token ids take. It bounds the memory for a file
without line breaks."""

_GZIP = b"\x1f\x8b"
_OTHERS = {
    b"\x28\xb5\x2f\xfd": "zstdcat",
    b"\xfd7zXZ": "xzcat",
    b"BZh": "bzcat",
    b"PK\x03": "unzip -p",
}
_MAGIC_BYTES = 6


def called(path: Path) -> str:
    """Return the name of a trace for error messages."""
    return "standard input" if str(path) == STDIN else str(path)


def name_of(path: Path) -> str:
    """Return the name of a trace for tables: that of its file without endings."""
    if str(path) == STDIN or path.parts[:2] in (("/", "dev"), ("/", "proc")):
        return "trace"
    return path.name.removesuffix(".gz").rpartition(".")[0] or path.name


def lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Generate the lines that are not blank, with their numbers from 1.

    Args:
        path: file; ``-`` is standard input. gzip is detected by its first bytes.

    Raises:
        UsageError: the file cannot be read, or a line is too long.
    """
    try:
        with _raw(path) as raw, _unpacked(path, raw) as file:
            for number, line in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES), b""), 1):
                if len(line) == MAX_LINE_BYTES and not line.endswith(b"\n"):
                    raise UsageError(
                        f"{called(path)}, line {number}: longer than {MAX_LINE_BYTES >> 20} MiB; "
                        "a trace has a request on each line."
                    )
                if line.strip():
                    yield number, line
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UsageError(f"the trace {called(path)} is cut off or not gzip: {error}.") from error
    except OSError as error:
        raise UsageError(f"cannot read the trace {called(path)}: {error.strerror}.") from error


def _raw(path: Path) -> io.BufferedReader:
    return open(0, "rb", closefd=False) if str(path) == STDIN else path.open("rb")


def _unpacked(path: Path, raw: io.BufferedReader) -> IO[bytes]:
    # A pipe cannot seek and cannot be opened twice, so the first bytes are peeked, not read.
    magic = raw.peek(_MAGIC_BYTES)[:_MAGIC_BYTES]
    if magic.startswith(_GZIP):
        return io.BufferedReader(gzip.GzipFile(fileobj=raw))
    for other, program in _OTHERS.items():
        if magic.startswith(other):
            raise UsageError(
                f"{called(path)} is compressed, and only gzip can be read directly; "
                f"give <({program} FILE)."
            )
    return raw
