"""Pictures of every screen from recorded streams.

After a wanted change, make them again with ``.venv/bin/python -m tests.dashboard.pictures`` and
look at each of them.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import msgspec

from dynamo_cli.dashboard.app import Dashboard
from dynamo_cli.dashboard.source import Source
from dynamo_cli.watch.moves import MoveStep
from dynamo_cli.watch.timelines import TimelineView
from tests.dashboard.replay import EIGHT, HOST_CACHE, LOST, MOVED, NODES, OVERLOADED, Replay

FOLDER = Path(__file__).parent / "pictures"
MADE_WITH = FOLDER / "made-with"
SIZES = ((80, 24), (160, 48))
DOCUMENT = Path(__file__).parents[2] / "docs" / "dashboard.svg"
DOCUMENT_SIZE = (110, 34)


class Scene(NamedTuple):
    """A recorded stream and the keys that lead to a screen."""

    stream: str
    screen: str
    keys: tuple[str, ...]

    def file(self, size: tuple[int, int]) -> Path:
        return FOLDER / f"{self.stream}-{self.screen}-{size[0]}x{size[1]}.svg"


SCENES = (
    Scene("startup", "overview", ()),
    Scene("empty", "overview", ()),
    Scene("empty", "routing", ("3",)),
    Scene("empty", "cache", ("4",)),
    Scene("empty", "prefill", ("5",)),
    Scene("busy", "overview", ()),
    Scene("busy", "workers", ("2",)),
    Scene("busy", "routing", ("3",)),
    Scene("busy", "decision", ("3", "enter")),
    Scene("busy", "cache", ("4",)),
    Scene("busy", "logs", ("6",)),
    Scene("busy", "help", ("question_mark",)),
    Scene("disaggregated", "overview", ()),
    Scene("disaggregated", "workers", ("2",)),
    Scene("disaggregated", "prefill", ("5",)),
    Scene(HOST_CACHE, "overview", ()),
    Scene(HOST_CACHE, "cache", ("4",)),
    Scene(HOST_CACHE, "decision", ("3", "enter")),
    Scene("gpus", "workers", ("2",)),
    Scene("gpus", "gpu", ("2", "tab", "down", "enter")),
    Scene(MOVED, "overview", ()),
    Scene(MOVED, "routing", ("3",)),
    Scene(MOVED, "decision", ("3", "enter")),
    Scene("degraded", "overview", ()),
    Scene(OVERLOADED, "overview", ()),
    Scene(LOST, "overview", ()),
    Scene(LOST, "workers", ("2",)),
    Scene("degraded", "workers", ("2",)),
    Scene("degraded", "logs", ("6",)),
)

EIGHT_SCENES = (
    Scene(EIGHT, "overview", ()),
    Scene(EIGHT, "workers", ("2",)),
    Scene(EIGHT, "worker", ("2", "enter")),
    Scene(EIGHT, "routing", ("3",)),
    Scene(EIGHT, "requests", ("7",)),
    Scene(EIGHT, "request", ("7", "enter")),
    Scene(EIGHT, "replay", ("8",)),
)
EIGHT_SIZES = ((80, 24), (200, 60))
CASES = (
    *((scene, size) for scene in SCENES for size in SIZES),
    *((scene, size) for scene in EIGHT_SCENES for size in EIGHT_SIZES),
    *((Scene(NODES, "workers", ("2",)), size) for size in ((80, 24), (120, 36), (200, 60))),
    (Scene(NODES, "node", ("2", "tab", "down", "enter")), (80, 24)),
    (Scene(EIGHT, "overview", ()), (120, 36)),
    (Scene(EIGHT, "overview", ()), (40, 10)),
)
"""The pictures: scenes and sizes."""

DOCUMENTED = Scene("busy", "overview", ())

TIMELINE = TimelineView(
    request_id="chat",
    endpoint="/v1/chat/completions",
    model="tiny",
    status=200,
    error="",
    finish_reason="length",
    worker=1,
    processor=0,
    prefill_worker=None,
    streamed=True,
    prompt_tokens=250,
    cached_tokens=192,
    output_tokens=30,
    age_s=1.5,
    stages_ms={
        "arrival": 0.0,
        "received": 0.4,
        "prepared": 2.9,
        "routed": 3.2,
        "sent": 3.4,
        "queued": 3.9,
        "scheduled": 4.6,
        "first_token": 14.2,
        "first_byte": 14.6,
        "last_token": 61.0,
        "ended": 61.5,
    },
)


MOVES = [
    MoveStep("worker 0", "worker 1", "died", 9, 21.7, 18.4),
]


async def timelines(_: str) -> list[TimelineView]:
    return [TIMELINE]


async def moved_timelines(_: str) -> list[TimelineView]:
    return [msgspec.structs.replace(TIMELINE, moves=MOVES)]


async def draw(scene: Scene, size: tuple[int, int]) -> str:
    """Draw the screen of a scene as SVG."""
    replay = Replay(scene.stream)
    known = moved_timelines if scene.stream == MOVED else timelines
    app = Dashboard(replay.state, source=Source(timelines=known), clock=replay.clock)
    async with app.run_test(size=size) as pilot:
        await pilot.pause()
        for key in scene.keys:
            await pilot.press(key)
            await pilot.wait_for_scheduled_animations()  # a table scrolls to what is selected
        await app.workers.wait_for_complete()
        before = ""
        while True:  # a table that was drawn before it had its size scrolls when it is drawn again
            app._update()
            app.screen.refresh(layout=True)  # a scroll bar may not have heard of it yet
            await pilot.pause()
            drawn = tidied(app.export_screenshot(title="dynamo-llm"))
            if drawn == before:
                return drawn
            before = drawn


def tidied(svg: str) -> str:
    """Remove references to fonts on the network from a picture."""
    svg = re.sub(r"\s*@font-face \{.*?\}", "", svg, flags=re.DOTALL)
    svg = svg.replace("font-family: Fira Code, monospace", "font-family: monospace")
    svg = re.sub(r"\s*<!-- Generated with .*? -->", "", svg)
    return "\n".join(line.rstrip() for line in svg.splitlines() if line.strip()) + "\n"


def use_utc() -> None:
    """Use UTC for times of day, so that pictures are the same everywhere."""
    os.environ["TZ"] = "UTC"
    time.tzset()


def main() -> None:
    use_utc()
    os.environ.pop("NO_COLOR", None)
    FOLDER.mkdir(exist_ok=True)
    for scene, size in CASES:
        scene.file(size).write_text(asyncio.run(draw(scene, size)))
    DOCUMENT.write_text(asyncio.run(draw(DOCUMENTED, DOCUMENT_SIZE)))
    MADE_WITH.write_text(f"textual {version('textual')}, rich {version('rich')}\n")


if __name__ == "__main__":
    main()
