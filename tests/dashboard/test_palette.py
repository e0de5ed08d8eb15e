"""Every text can be read in every theme."""

from __future__ import annotations

import asyncio
import re

import pytest
from textual.color import Color

from dynamo_cli.dashboard.app import THEMES, Dashboard
from tests.dashboard.replay import EIGHT, LOST, OVERLOADED, Replay

LEAST = 4.0
"""Of the contrast of a text. WCAG asks for 4.5, and for 3 where letters are large or bold."""

FRAME = "#c5c8c6"
"""Colour of the frame that Rich draws around a picture of a terminal."""


def contrast(one: str, other: str) -> float:
    """The ratio of two colours' luminances, as WCAG defines it: from 1 to 21."""
    dark, light = sorted((luminance(Color.parse(one)), luminance(Color.parse(other))))
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: Color) -> float:
    """The relative luminance of a colour."""
    linear = [
        part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4
        for part in colour.normalized
    ]
    red, green, blue = linear
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


async def drawn(stream: str, theme: str) -> tuple[str, str]:
    """The picture of an overview, and the colour of its background."""
    replay = Replay(stream)
    app = Dashboard(replay.state, clock=replay.clock)
    async with app.run_test(size=(120, 36)) as pilot:
        app.theme = theme
        await pilot.pause()
        app._update()
        await pilot.pause()
        return app.export_screenshot(), app.screen.background_colors[1].hex.lower()


@pytest.mark.parametrize("theme", THEMES)
def test_text_stands_out_from_its_background(theme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    seen = 0
    for stream in (OVERLOADED, LOST, EIGHT):
        svg, behind = asyncio.run(drawn(stream, theme))
        for colour in set(re.findall(r"-r\d+ \{ fill: (#\w+)", svg)) - {FRAME, behind}:
            assert contrast(colour, behind) >= LEAST, f"{colour} on {behind}"
            seen += 1
    assert seen > 15
