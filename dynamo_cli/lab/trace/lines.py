"""Reads the lines of a trace, or the entries of a JSON array, from a file, a pipe or gzip, in one
pass and with little memory."""

from __future__ import annotations

import codecs
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from dynamo_cli.errors import UsageError
from dynamo_cli.host import oserrors

STDIN = "-"
MAX_LINE_BYTES = 32 * 1024 * 1024
"""Longest line or entry, which is more than a million token ids take. It bounds the memory for a
file without line breaks."""

_GZIP = b"\x1f\x8b"
_PARQUET = b"PAR1"
_OTHERS = {
    b"\x28\xb5\x2f\xfd": "zstdcat",
    b"\xfd7zXZ": "xzcat",
    b"BZh": "bzcat",
    b"PK\x03": "unzip -p",
}
_MAGIC_BYTES = 6
_CHUNK_BYTES = 1 << 16
_BLANKS = " \t\r\n"


def called(path: Path) -> str:
    """Return the name of a trace for error messages."""
    return "standard input" if str(path) == STDIN else str(path)


def name_of(path: Path) -> str:
    """Return the name of a trace for tables: that of its file without endings."""
    if str(path) == STDIN or path.parts[:2] in (("/", "dev"), ("/", "proc")):
        return "trace"
    return path.name.removesuffix(".gz").rpartition(".")[0] or path.name


def lines(path: Path) -> Iterator[tuple[str, bytes]]:
    """Generate the lines that are not blank, or the entries of a JSON array.

    Each comes with its place for error messages, counted from 1: ``line 3`` or ``entry 3``.

    Args:
        path: file; ``-`` is standard input. gzip is detected by its first bytes.

    Raises:
        UsageError: the file cannot be read, or a line is too long.
    """
    try:
        with _raw(path) as raw, _unpacked(path, raw) as file:
            if _is_array(file):
                yield from _entries(called(path), file)
            else:
                yield from _lines(called(path), file)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UsageError(f"the trace {called(path)} is cut off or not gzip: {error}.") from error
    except OSError as error:
        raise UsageError(
            f"cannot read the trace {called(path)}: {oserrors.reason(error)}."
        ) from error


def _lines(where: str, file: IO[bytes]) -> Iterator[tuple[str, bytes]]:
    for number, line in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES), b""), 1):
        if len(line) == MAX_LINE_BYTES and not line.endswith(b"\n"):
            raise UsageError(
                f"{where}, line {number}: longer than {MAX_LINE_BYTES >> 20} MiB; "
                "a trace has a request on each line, or is a JSON array of requests."
            )
        if line.strip():
            yield f"line {number}", line


# -- JSON arrays -------------------------------------------------------------------------------


def _is_array(file: io.BufferedReader) -> bool:
    head = file.peek(_CHUNK_BYTES).removeprefix(codecs.BOM_UTF8).lstrip()
    return head.startswith(b"[")


def _entries(where: str, file: IO[bytes]) -> Iterator[tuple[str, bytes]]:
    """Generate the objects of an array; only one of them is in memory at a time."""
    text = _Text(where, file)
    text.skip("[")
    number = 0
    while not text.skip("]"):
        if number and not text.skip(","):
            raise UsageError(f"{where}: there is no comma after entry {number} of its array.")
        number += 1
        yield f"entry {number}", text.entry(number)


class _Text:
    """The text of a file that is read as far as it is needed."""

    def __init__(self, where: str, file: IO[bytes]) -> None:
        self._where, self._file = where, file
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._parse = json.JSONDecoder().raw_decode
        self._text, self._at = "", 0

    def skip(self, mark: str) -> bool:
        """Skip blanks and then this character; return whether it was there."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in _BLANKS:
                self._at += 1
            if self._at < len(self._text):
                break
            if not self._more(_CHUNK_BYTES):
                raise UsageError(f"{self._where} is cut off: its JSON array has no end.")
        found = self._text[self._at] == mark
        self._at += found
        return found

    def entry(self, number: int) -> bytes:
        """Return the next entry, which is an object."""
        if not self.skip("{"):
            raise UsageError(
                f"{self._where}, entry {number}: the entries of a JSON array are objects like "
                "the lines of a trace."
            )
        self._at -= 1
        size = _CHUNK_BYTES
        while True:
            try:
                _, end = self._parse(self._text, self._at)
            except RecursionError as error:
                raise UsageError(
                    f"{self._where}, entry {number}: it is nested too deeply."
                ) from error
            except json.JSONDecodeError as error:
                # It may go on; asking for twice as much each time keeps the sum of work linear.
                if len(self._text) - self._at < MAX_LINE_BYTES and self._more(size):
                    size *= 2
                    continue
                raise UsageError(f"{self._where}, entry {number}: {error.msg}.") from error
            found, self._at = self._text[self._at : end], end
            return found.encode()

    def _more(self, size: int) -> bool:
        """Read on; return False at the end of the file."""
        data = self._file.read(size)
        try:
            text = self._decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            raise UsageError(f"{self._where} is not UTF-8.") from error
        self._text, self._at = self._text[self._at :] + text, 0
        return bool(data)


# -- files -------------------------------------------------------------------------------------


def _raw(path: Path) -> io.BufferedReader:
    return open(0, "rb", closefd=False) if str(path) == STDIN else path.open("rb")


def _unpacked(path: Path, raw: io.BufferedReader) -> io.BufferedReader:
    # A pipe cannot seek and cannot be opened twice, so the first bytes are peeked, not read.
    magic = raw.peek(_MAGIC_BYTES)[:_MAGIC_BYTES]
    if magic.startswith(_GZIP):
        return io.BufferedReader(gzip.GzipFile(fileobj=raw))
    if magic.startswith(_PARQUET):
        raise UsageError(
            f"{called(path)} is a Parquet file, which cannot be read; write it as JSON lines, as "
            "pandas.read_parquet(FILE).to_json('trace.jsonl', orient='records', lines=True) does."
        )
    for other, program in _OTHERS.items():
        if magic.startswith(other):
            raise UsageError(
                f"{called(path)} is compressed, and only gzip can be read directly; "
                f"give <({program} FILE)."
            )
    return raw
