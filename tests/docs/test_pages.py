"""What pages say besides commands: options exist, links lead somewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from dynamo_cli.cli import app, commands
from dynamo_cli.engines.vllm.options import declared
from tests.docs.commands import PAGES, ROOT
from tests.support import layout

OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")
LINK = re.compile(r"\[[^\]]+\]\(([^)\s]+)\)")

OF_OTHERS = {
    "--aa": "tests.benchmarks.serve",
    "--against": "tests.benchmarks.processor",
    "--half": "tests.benchmarks.policies",
    "--head": "ray start",
    "--loads": "tests.benchmarks.gpus",
    "--seconds": "tests.benchmarks.gpus",
    "--servers": "tests.benchmarks.gpus",
    "--streams": "tests.benchmarks.steps",
    "--vllm": "tests.benchmarks.steps",
    "--ulimit": "docker run",
    "--upgrade": "pip",
    "--no-deps": "pip",
    "--filename": "kubectl",
    "--from-literal": "kubectl",
    "--real": "tests.benchmarks.cluster",
    "--rust": "tests.benchmarks.serve",
}
"""Options of programs that are neither ours nor vLLM's."""


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def flags_of(command: object) -> Iterator[str]:
    """Of a command and of all below it."""
    yield "--help"
    for parameter in getattr(command, "params", ()):
        yield from parameter.opts
        if getattr(parameter, "is_flag", False):  # what a file sets can be taken back
            yield from (f"--no-{flag[2:]}" for flag in parameter.opts)
    for below in getattr(command, "commands", {}).values():
        yield from flags_of(below)


@pytest.fixture(scope="module")
def known() -> set[str]:
    """Of ours, of the scripts for containers, and of vLLM."""
    found = set(flags_of(app.command()))
    for command in commands.COMMANDS:
        found.update(flags_of(typer.main.get_command(commands.find(command))))
    for script in (ROOT / "container").glob("*.sh"):
        found.update(OPTION.findall(script.read_text()))
    found.update(declared.known())
    return found | OF_OTHERS.keys()


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_options_exist(page: Path, known: set[str]) -> None:
    assert set(OPTION.findall(page.read_text())) <= known


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_files_exist(page: Path) -> None:
    """Those with a folder, in backquotes, from the root or from the package."""
    for path in re.findall(r"`((?:[a-z_]+/)+(?:[a-z_]+\.(?:py|sh))?)`", page.read_text()):
        assert any((home / path).exists() for home in (ROOT, ROOT / "dynamo_cli")), path


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_functions_exist(page: Path) -> None:
    """Those that a page names with their file, as in ``router/state.py:RouterState.decide``."""
    for file, what in re.findall(r"`((?:[a-z_]+/)*[a-z_]+\.py):([\w.]+)`", page.read_text()):
        assert file in layout.modules(), file
        assert layout.exists(file, what), f"{file}:{what}"


def test_the_picture_of_packages_is_that_of_the_imports() -> None:
    """``python -m tests.support.layout`` draws it anew."""
    assert layout.PAGE.read_text() == layout.drawn()


def test_the_table_of_packages_names_all_of_them() -> None:
    text = layout.PAGE.read_text().partition("## Packages")[2].partition("<!-- packages")[0]
    named = {path.partition("/")[0] for path in re.findall(r"`([a-z_]+/)", text)}
    packages = {file.partition("/")[0] for file in layout.modules() if "/" in file}
    assert packages - named == set()


def anchors(page: Path) -> set[str]:
    """Of its headings, as they are linked."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.M)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(page.read_text()):
        path, _, anchor = link.partition("#")
        if ":" in path:
            continue  # another site
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_no_section_is_empty(page: Path) -> None:
    """A heading is followed by text, or by a heading below it."""
    text = re.sub(r"^```.*?^```$", "code", page.read_text(), flags=re.M | re.S)
    lines = [line for line in text.splitlines() if line.strip()]
    for line, following in zip(lines, [*lines[1:], "#"], strict=True):
        level, next_level = depth(line), depth(following)
        assert not level or not next_level or next_level > level, line


MAX_PROSE = 110
"""Longest line of prose; tables, code and pictures cannot be wrapped."""


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_prose_is_wrapped(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)
    prose = [line for line in text.splitlines() if not re.match(r"\||!\[| {4}", line)]
    assert [line for line in prose if len(line) > MAX_PROSE] == []


def depth(line: str) -> int:
    """Of a heading, from 1 on; 0 for text."""
    marks = line.partition(" ")[0]
    return len(marks) if marks and not marks.strip("#") else 0


def test_every_page_is_reachable() -> None:
    """From the first ones that people read, or from pages that these link to."""
    reached, new = set(), {ROOT / "README.md", ROOT / "docs" / "getting-started.md"}
    while new:
        reached |= new
        linked = {
            (page.parent / link.partition("#")[0]).resolve()
            for page in new
            for link in LINK.findall(page.read_text())
            if link.partition("#")[0].endswith(".md")
        }
        new = linked - reached
    assert reached >= set(PAGES)
