"""Files without a name in a folder: nobody else can open them, and they end with their process."""

from __future__ import annotations

import errno
import mmap
import os
import tempfile
from pathlib import Path

_NO_UNNAMED = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT)
"""What systems say that cannot make files without a name."""


def open_unnamed(folder: str, *, direct: bool) -> int:
    """Make an empty file without a name; returns its descriptor.

    Args:
        direct: whether reads and writes go past the page cache.

    Raises:
        OSError: the system refuses, as it does for `direct` on some file systems.
    """
    flags = os.O_RDWR | os.O_CLOEXEC | (os.O_DIRECT if direct else 0)
    try:
        return os.open(folder, flags | os.O_TMPFILE, 0o600)
    except OSError as error:
        if error.errno not in _NO_UNNAMED or not Path(folder).is_dir():
            raise
    made, path = tempfile.mkstemp(prefix=".dynamo-llm-", dir=folder)
    try:
        return os.open(path, flags)
    finally:
        os.close(made)
        Path(path).unlink()


def open_best(folder: str, *, direct: bool) -> tuple[int, bool]:
    """As `open_unnamed`, past the page cache only if that works; also returns whether it does.

    Raises:
        OSError: there can be no such file.
    """
    if direct:
        try:
            made = open_unnamed(folder, direct=True)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
        else:
            if _takes_pages(made):
                return made, True
            os.close(made)
    return open_unnamed(folder, direct=False), False


def _takes_pages(file: int) -> bool:
    """Whether a page can be written to it directly; a full disk may have room later."""
    with mmap.mmap(-1, mmap.PAGESIZE) as page:
        try:
            os.pwrite(file, page, 0)
        except OSError as error:
            return error.errno != errno.EINVAL
    return True


def in_memory(folder: str) -> bool:
    """Whether the files of a folder are in memory, as of a tmpfs; False where nobody tells."""
    try:
        device = Path(folder).stat().st_dev
        lines = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    except OSError:
        return False
    number = f"{os.major(device)}:{os.minor(device)}"
    kinds = {line[line.index("-") + 1] for line in lines if "-" in line and line[2] == number}
    return bool(kinds & {"tmpfs", "ramfs"})
