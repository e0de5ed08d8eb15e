"""What a dashboard hears: server-sent events of the frontend, and how the connection is. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

import msgspec

from dynamo_cli.watch.decisions import DecisionView, Measurement
from dynamo_cli.watch.logs import LogView
from dynamo_cli.watch.schema import ProcessView, Snapshot

MAX_EVENT_BYTES = 64 * 1024 * 1024


class State(StrEnum):
    """Of the connection."""

    CONNECTING = "connecting"
    LIVE = "live"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Link:
    """How the connection is.

    Attributes:
        reason: why there is none, and what to do.
    """

    state: State
    url: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Decided:
    """New decisions, newest first."""

    decisions: list[DecisionView]


@dataclass(frozen=True, slots=True)
class Found:
    """What engines found in their caches."""

    measurements: list[Measurement]


@dataclass(frozen=True, slots=True)
class Lines:
    """New log lines, oldest first."""

    lines: list[LogView]


@dataclass(frozen=True, slots=True)
class Table:
    """The processes as the supervisor sees them, before any frontend answers."""

    processes: list[ProcessView]


Event = Link | Snapshot | Decided | Found | Lines | Table

_snapshot = msgspec.json.Decoder(Snapshot).decode
_decisions = msgspec.json.Decoder(list[DecisionView]).decode
_measurements = msgspec.json.Decoder(list[Measurement]).decode
_lines = msgspec.json.Decoder(list[LogView]).decode


def decode(name: str, data: bytes) -> Event | None:
    """A server-sent event; None for one of a newer server that this one does not know.

    Raises:
        msgspec.DecodeError: the server speaks another version of this.
    """
    match name:
        case "snapshot":
            return _snapshot(data)
        case "decisions":
            return Decided(_decisions(data))
        case "measured":
            return Found(_measurements(data))
        case "logs":
            return Lines(_lines(data))
    return None


class Raw(NamedTuple):
    """A server-sent event as it came."""

    name: str
    data: bytes


class Parser:
    """Bytes in, events out."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[Raw]:
        """The events that `data` completes.

        Raises:
            ValueError: this is no stream of ours: an event without end.
        """
        *whole, self._rest = (self._rest + data).split(b"\n\n")
        if len(self._rest) > MAX_EVENT_BYTES:
            raise ValueError("an event without end")
        return [_event(block) for block in whole]


def _event(block: bytes) -> Raw:
    name, data = "", b""
    for line in block.split(b"\n"):
        field, _, value = line.partition(b": ")
        if field == b"event":
            name = value.decode()
        elif field == b"data":
            data = value
    return Raw(name, data)
