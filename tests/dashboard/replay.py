"""Recorded streams, and the board state after them."""

from __future__ import annotations

import gzip
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from dynamo_cli.dashboard.events import ConnectionChange, State, decode
from dynamo_cli.dashboard.model import BoardState
from dynamo_cli.topology import CLUSTER, ProcessId, Role
from dynamo_cli.watch.alarms import no_place
from dynamo_cli.watch.load_schema import QueuesView
from dynamo_cli.watch.schema import MovesView, RecentMove

from . import eight
from .made import gpu, node, snapshot

FOLDER = Path(__file__).parent / "recorded"
WATCHED = Path(__file__).parents[1] / "watch" / "recorded"
BEGAN_S = 1_767_268_800.0
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


NODES = "nodes"
"""Name of the recording of the busy server, as if its two workers ran on two other nodes."""


def on_nodes(content: Any) -> Any:
    """Add two nodes to a snapshot, of which one has been lost before. Other events are returned
    unchanged."""
    if "processes" not in content:
        return content
    devices = ("gpu 0 @ node-a", "gpu 0 @ node-b")
    named = [
        one | {"device": devices[one["index"]]} if one["device"] else one
        for one in content["processes"]
    ]
    plain = next(one for one in named if one["role"] == Role.ROUTER.value)
    relays = [
        plain | {"name": process.name, "role": process.role.value, "index": process.index}
        for process in (CLUSTER, ProcessId(Role.RELAY, 0), ProcessId(Role.RELAY, 1))
    ]
    views = [node("node-a"), node("node-b", reconnects=2, resyncs=3, stale_frames=14)]
    nodes = msgspec.to_builtins(views)
    return content | {"processes": [*named, *relays], "nodes": nodes}


MOVED = "moved"
"""Name of the recording of the busy server, as if requests of worker 0 had moved to worker 1."""


def with_moves(events: list[tuple[float, str, Any]]) -> list[tuple[float, str, Any]]:
    """Let the last requests of worker 0 move, and one find no place."""
    at_s = events[-1][0]
    decided = [one for _, kind, content in events if kind == "decisions" for one in content]
    decided.sort(key=lambda one: int(one["number"]), reverse=True)
    number = decided[0]["number"]
    left = [one for one in decided if one["worker"] == 0][:5]
    again = [
        one
        | {"number": number + place, "worker": 1, "moved": "died", "moved_from": 0}
        | {"output_tokens": 7 * place, "age_s": 0.1, "measured_tokens": None}
        for place, one in enumerate(left, 1)
    ]
    recent = [
        RecentMove(one["request_id"], "worker", "worker 0", "worker 1", "died", 7, 0.1)
        for one in again
    ]
    moves = MovesView({"died": 12, "drained": 3}, {"died": 1}, 0.0412, recent)
    last = next(content for _, kind, content in reversed(events) if kind == "snapshot")
    alarms = [*last["alarms"], msgspec.to_builtins(no_place(1))]
    snapshot = last | {"moves": msgspec.to_builtins(moves), "alarms": alarms}
    return [*events, (at_s, "decisions", again[::-1]), (at_s, "snapshot", snapshot)]


EIGHT = "eight"
"""Name of a made stream of a server with eight workers on eight GPUs."""

HOST_CACHE = "host-cache"
"""Name of the recording of the busy server, as if it had a host cache."""


def with_host_cache(content: Any) -> Any:
    """Add a host cache to a snapshot, and what the host cache has to decisions. Other events are
    returned unchanged."""
    if isinstance(content, list):
        return [_loading(one) if "candidates" in one else one for one in content]
    if "processes" not in content or not content["workers"]:
        return content
    seen = snapshot(host_cache=True)
    cache = msgspec.to_builtins(seen.host_cache, str_keys=True)
    process = next(one for one in seen.processes if one.role == Role.HOST_CACHE.value)
    processes = [*content["processes"], msgspec.to_builtins(process)]
    return content | {"processes": processes, "host_cache": cache}


def _loading(decision: Any) -> Any:
    """The decision as if the host cache had two blocks more than the worker that was chosen."""
    blocks = min(decision["overlap_blocks"] + 2, decision["required_blocks"] - 1)
    return decision | {"host_blocks": blocks, "predicted_tokens": 32 * blocks}


OVERLOADED, LOST = "overloaded", "lost"
"""Names of the recording of an overloaded server, and of the same when its connection was lost."""


def overloaded() -> list[tuple[float, str, Any]]:
    """The snapshots that the tests of alarms have."""
    text = gzip.decompress((WATCHED / "overload.json.gz").read_bytes()).decode()
    seen = json.loads(re.sub(r"http://127\.0\.0\.1:\d+", URL, text))
    return [(BEGAN_S + one["uptime_s"], "snapshot", one) for one in seen]


@cache
def recorded(name: str) -> list[tuple[float, str, Any]]:
    """Read a recording: (seconds since 1970, name of the event, content). Its server gets the usual
    address."""
    if name == GPUS:
        return [(at_s, kind, on_gpus(content)) for at_s, kind, content in recorded("busy")]
    if name == NODES:
        return [(at_s, kind, on_nodes(content)) for at_s, kind, content in recorded("busy")]
    if name == MOVED:
        return with_moves(recorded("busy"))
    if name == HOST_CACHE:
        return [(at_s, kind, with_host_cache(content)) for at_s, kind, content in recorded("busy")]
    if name in (OVERLOADED, LOST):
        return overloaded()
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
        if name == EIGHT:
            self.state.apply(ConnectionChange(State.LIVE, URL), eight.START_S)
            for self.now_s, event in eight.events():
                self.state.apply(event, self.now_s)
            return
        self.now_s = recorded(name)[0][0]
        empty = snapshot(prefill_workers=1, queues=QueuesView())
        plain = msgspec.json.decode(msgspec.json.encode(empty))
        self.state.apply(ConnectionChange(State.LIVE, URL), self.now_s)
        for at_s, kind, content in recorded(name):
            self.now_s = at_s
            if kind == "snapshot":
                content = completed(content, plain)  # noqa: PLW2901
            event = decode(kind, msgspec.json.encode(content))
            assert event is not None
            self.state.apply(event, at_s)
        if name == LOST:
            self.now_s += 12.0
            self.state.apply(ConnectionChange(State.LOST, URL, f"no server at {URL}."), self.now_s)

    def clock(self) -> float:
        return self.now_s
