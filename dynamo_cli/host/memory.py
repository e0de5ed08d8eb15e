"""Main memory: of the machine, or what the limits of the control groups of this process leave."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class Memory(NamedTuple):
    """Main memory that this process and its children may use.

    Attributes:
        total_bytes: all of it.
        available_bytes: what is free, or becomes free when the kernel needs it.
    """

    total_bytes: int
    available_bytes: int


class _Files(NamedTuple):
    """What the memory controller calls its files, and in ``memory.stat`` the cache of files."""

    limit: str
    used: str
    reclaimable: str


VERSION_2 = _Files("memory.max", "memory.current", "inactive_file")
VERSION_1 = _Files("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
"""Older systems still have it (RHEL 8, Ubuntu 20.04); there no limit is a very large number."""


def read_memory(root: Path = Path("/")) -> Memory:
    """Read the kernel's figures.

    Args:
        root: where ``proc`` and ``sys`` are.
    """
    found = Memory(*(_of_machine(root, name) for name in ("MemTotal:", "MemAvailable:")))
    for folder, files in _groups(root):
        limit, used = _number(folder / files.limit), _number(folder / files.used)
        if limit is not None and used is not None:
            # Files that were read count as used, but make room when it is needed.
            free = limit - used + _reclaimable(folder / "memory.stat", files.reclaimable)
            found = Memory(min(found.total_bytes, limit), min(found.available_bytes, max(0, free)))
    return found


def _of_machine(root: Path, name: str) -> int:
    lines = (root / "proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def _groups(root: Path) -> Iterator[tuple[Path, _Files]]:
    """The control group of this process and all above it, each of which may have a limit.

    A container may see its own group at the top, although the kernel names the path outside.
    """
    own = {"": "", "memory": ""}
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        own |= {name: path.lstrip("/") for name in controllers.split(",") if name in own}
    top = root / "sys/fs/cgroup"
    yield from ((group, VERSION_2) for group in _up(top, own[""]))
    yield from ((group, VERSION_1) for group in _up(top / "memory", own["memory"]))


def _up(top: Path, path: str) -> Iterator[Path]:
    own = top / path
    while own.is_relative_to(top) and own != top:
        yield own
        own = own.parent
    yield top


def _reclaimable(file: Path, name: str) -> int:
    values = dict(line.split(" ", 1) for line in _text(file).splitlines())
    return int(values.get(name, 0))


def _number(file: Path) -> int | None:
    text = _text(file).strip()
    return int(text) if text.isdigit() else None  # "max" means that there is no limit


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""
