"""Every screen at 80x24 and 160x48 looks like the picture that was reviewed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.dashboard.pictures import CASES, MADE_WITH, Scene, draw


@pytest.fixture(autouse=True)
def as_everywhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Ignore the user's time zone, and whether colour is switched off."""
    monkeypatch.setenv("TZ", "UTC")
    monkeypatch.delenv("NO_COLOR", raising=False)
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("scene", "size"), CASES, ids=[scene.file(size).stem for scene, size in CASES]
)
def test_a_screen_looks_as_it_did(scene: Scene, size: tuple[int, int], tmp_path: Path) -> None:
    made_with, here = (
        MADE_WITH.read_text().strip(),
        f"textual {version('textual')}, rich {version('rich')}",
    )
    if made_with != here:
        pytest.skip(f"the pictures were made with {made_with}; here is {here}")
    drawn = asyncio.run(draw(scene, size))
    if drawn != scene.file(size).read_text():
        seen = tmp_path / scene.file(size).name
        seen.write_text(drawn)
        pytest.fail(
            f"it looks different: compare {seen} with {scene.file(size)}; if the change is "
            "wanted, python -m tests.dashboard.pictures makes the pictures again"
        )
