"""The commands that the documentation shows: every indented block, and what is fenced as ``sh``."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
INDENT = "    "
FENCE = "```"
SHELL = ("sh", "bash", "console")
ASSIGNMENT = re.compile(r"\w+=")


class Block(NamedTuple):
    """Code in a page; `line` is where it begins, from 1 on."""

    page: str
    line: int
    text: str


class Command(NamedTuple):
    """One command of a block, which may go over several lines."""

    page: str
    line: int
    text: str

    @property
    def where(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def words(self) -> list[str]:
        """Its words, without the variables that are set for it."""
        words = shlex.split(self.text)
        while words and ASSIGNMENT.match(words[0]):
            words.pop(0)
        return words


def blocks(page: Path) -> Iterator[Block]:
    """Indented ones and those fenced as shell, in order."""
    name = str(page.relative_to(ROOT))
    fence: str | None = None
    found: list[str] = []
    began = 0
    previous = ""
    for number, line in enumerate([*page.read_text().splitlines(), ""], start=1):
        opens_or_closes = line.startswith(FENCE)
        indented = fence is None and line.startswith(INDENT) and (found or not previous.strip())
        if indented or (fence in SHELL and not opens_or_closes):
            began = began or number
            found.append(line.removeprefix(INDENT) if fence is None else line)
        elif found and (line.strip() or fence is not None):
            yield Block(name, began, dedent("\n".join(found)))
            found, began = [], 0
        if opens_or_closes:
            fence = None if fence is not None else line.removeprefix(FENCE).strip()
        previous = line
    if found:
        yield Block(name, began, dedent("\n".join(found)))


def commands(block: Block) -> Iterator[Command]:
    """Its lines, joined where a quote or a backslash goes on."""
    pending: list[str] = []
    for number, line in enumerate(block.text.splitlines(), start=block.line):
        if not pending and (not line.strip() or line.startswith("#")):
            continue
        pending.append(line)
        text = "\n".join(pending)
        if _is_whole(text):
            yield Command(block.page, number - len(pending) + 1, text)
            pending = []
    assert not pending, f"{block.page}:{block.line}: a quote is never closed"


def _is_whole(text: str) -> bool:
    if text.endswith("\\"):
        return False
    try:
        shlex.split(text)
    except ValueError:
        return False
    return True
