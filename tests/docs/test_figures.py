"""Figures of GPUs stand in docs/gpu.md; the README repeats a few of them."""

from __future__ import annotations

import re

from tests.docs.commands import ROOT

FIGURE = re.compile(r"\b\d+\.\d\d\b|\b\d+(?= to \d+ %)|\b\d+(?= %)")


def test_the_readme_repeats_what_the_page_says() -> None:
    readme = (ROOT / "README.md").read_text()
    figures = set(FIGURE.findall(readme))
    assert len(figures) >= 10
    page = set(re.findall(r"\b\d+(?:\.\d+)?\b", (ROOT / "docs/gpu.md").read_text()))
    assert figures <= page


def test_the_readme_fits_on_three_screens() -> None:
    """Of fifty lines; further text has its place in docs/."""
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
