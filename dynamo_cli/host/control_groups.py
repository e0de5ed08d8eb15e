"""The control groups of this process, whose limits containers and services have."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class Group(NamedTuple):
    """A control group.

    Attributes:
        folder: where its files are.
        version: of control groups, 1 or 2: their files have different names. Older systems have
            version 1 (RHEL 8, Ubuntu 20.04).
    """

    folder: Path
    version: int


def groups_of_this_process(controller: str, root: Path = Path("/")) -> Iterator[Group]:
    """The groups that limit this process: its own and all above it. Not every one is there.

    A container may see its own group at the top, although the kernel names the path outside.

    Args:
        controller: ``memory`` or ``cpu``; version 1 has a tree for each.
        root: where ``proc`` and ``sys`` are.
    """
    paths = _paths(text_of(root / "proc/self/cgroup"))
    top = root / "sys/fs/cgroup"
    yield from (Group(folder, 2) for folder in _up(top, paths.get("", "")))
    yield from (Group(folder, 1) for folder in _up(top / controller, paths.get(controller, "")))


def text_of(file: Path) -> str:
    """What is in a file; nothing where it cannot be read."""
    try:
        return file.read_text().strip()
    except OSError:
        return ""


def _paths(listed: str) -> dict[str, str]:
    """The path of the group for each controller; version 2 has one for all, under no name."""
    lines = (line.split(":", 2) for line in listed.splitlines())
    return {
        name: path.lstrip("/") for _, controllers, path in lines for name in controllers.split(",")
    }


def _up(top: Path, path: str) -> Iterator[Path]:
    own = top / path
    while own.is_relative_to(top) and own != top:
        yield own
        own = own.parent
    yield top
