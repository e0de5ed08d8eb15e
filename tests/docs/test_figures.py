"""Figures of GPUs stand in docs/gpu.md; the README repeats a part of them."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.docs.commands import ROOT

SECTIONS = ("Route", "Fast")


def rows(text: str) -> Iterator[list[str]]:
    """The rows of all tables, without their heads and lines."""
    for line in text.splitlines():
        if line.startswith("|") and not set(line) <= set("|-: "):
            yield [cell.strip() for cell in line.strip("|").split("|")]


@pytest.mark.parametrize("section", SECTIONS)
def test_the_readme_repeats_what_the_page_says(section: str) -> None:
    readme = (ROOT / "README.md").read_text()
    text = readme.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    measured = [row for row in rows(text) if re.search(r"\b\d\.\d\d\b", " ".join(row[1:]))]
    assert len(measured) >= 3
    page = list(rows((ROOT / "docs/gpu.md").read_text()))
    for row in measured:
        assert any(row[0] == there[0] and set(row) <= set(there) for there in page), row
