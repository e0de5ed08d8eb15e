"""Main memory: of the machine, or what the limits of the control groups of this process leave."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from dynamo_cli.host.control_groups import groups_of_this_process, text_of


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


FILES = {
    1: _Files("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    2: _Files("memory.max", "memory.current", "inactive_file"),
}
"""By the version of control groups. In version 1, no limit is a very large number."""


def read_memory(root: Path = Path("/")) -> Memory:
    """Read the kernel's figures.

    Args:
        root: where ``proc`` and ``sys`` are.
    """
    found = Memory(*(_of_machine(root, name) for name in ("MemTotal:", "MemAvailable:")))
    for folder, version in groups_of_this_process("memory", root):
        files = FILES[version]
        limit, used = _number(folder / files.limit), _number(folder / files.used)
        if limit is not None and used is not None:
            # Files that were read count as used, but make room when it is needed.
            free = limit - used + _reclaimable(folder / "memory.stat", files.reclaimable)
            found = Memory(min(found.total_bytes, limit), min(found.available_bytes, max(0, free)))
    return found


def _of_machine(root: Path, name: str) -> int:
    lines = (root / "proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def _reclaimable(file: Path, name: str) -> int:
    values = dict(line.split(" ", 1) for line in text_of(file).splitlines())
    return int(values.get(name, 0))


def _number(file: Path) -> int | None:
    text = text_of(file)
    return int(text) if text.isdigit() else None  # "max" means that there is no limit
