"""Recorded streams, and the board state after them."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from dynamo_cli.dashboard.events import Link, State, decode
from dynamo_cli.dashboard.model import BoardState

from .made import gpu, snapshot

FOLDER = Path(__file__).parent / "recorded"
URL = "http://127.0.0.1:8181"


GPUS = "gpus"
"""Name of the recording of the busy server, as if each of its two workers had a GPU."""


def on_gpus(content: Any) -> Any:
    """Add two GPUs to a snapshot, one with all figures and one with few. Other events are returned
    unchanged."""
    if "processes" not in content:
        return content
    silent = {"utilization": None, "power_watts": None, "xids": {31: 2}}
    views = [gpu(0), gpu(1, **silent)]
    devices = [
        one | {"device": f"gpu {one['index']}"} if one["device"] else one
        for one in content["processes"]
    ]
    return content | {"processes": devices, "gpus": msgspec.to_builtins(views, str_keys=True)}


@cache
def recorded(name: str) -> list[tuple[float, str, Any]]:
    """Read a recording: (seconds since 1970, name of the event, content). Its server gets the usual
    address."""
    if name == GPUS:
        return [(at_s, kind, on_gpus(content)) for at_s, kind, content in recorded("busy")]
    text = re.sub(r"http://127\.0\.0\.1:\d+", URL, (FOLDER / f"{name}.json").read_text())
    return [tuple(event) for event in json.loads(text)["events"]]


def completed(content: Any, plain: Any) -> Any:
    """Add fields to a recorded snapshot that snapshots did not have when it was recorded."""
    match content, plain:
        case dict(), dict():
            return plain | {
                name: completed(value, plain.get(name)) for name, value in content.items()
            }
        case list(), [first, *_]:
            return [completed(one, first) for one in content]
    return content


class Replay:
    """A board state to which a recorded stream was applied.

    Attributes:
        now_s: time of the last event.
    """

    def __init__(self, name: str) -> None:
        self.state = BoardState(URL)
        self.now_s = recorded(name)[0][0]
        plain = msgspec.json.decode(msgspec.json.encode(snapshot(prefill_workers=1)))
        self.state.apply(Link(State.LIVE, URL), self.now_s)
        for at_s, kind, content in recorded(name):
            self.now_s = at_s
            if kind == "snapshot":
                content = completed(content, plain)  # noqa: PLW2901
            event = decode(kind, msgspec.json.encode(content))
            assert event is not None
            self.state.apply(event, at_s)

    def clock(self) -> float:
        return self.now_s
