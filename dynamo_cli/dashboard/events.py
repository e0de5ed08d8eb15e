"""The events that a dashboard receives: those of the frontend, and states of the connection.
Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import msgspec

from dynamo_cli.dashboard.experiment import Experiment
from dynamo_cli.watch.decisions import DecisionView, Measurement
from dynamo_cli.watch.logs import LogView
from dynamo_cli.watch.schema import ProcessView, Snapshot
from dynamo_cli.watch.timelines import TimelineView


class State(StrEnum):
    """State of the connection to the server."""

    CONNECTING = "connecting"
    LIVE = "live"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class ConnectionChange:
    """A change of the connection.

    Attributes:
        state: its new state.
        url: address of the server.
        reason: why there is no connection, and what to do.
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
    """Cached tokens that engines found."""

    measurements: list[Measurement]


@dataclass(frozen=True, slots=True)
class Lines:
    """New log lines, oldest first."""

    lines: list[LogView]


@dataclass(frozen=True, slots=True)
class ProcessList:
    """The supervisor's process table, which is known before the frontend answers."""

    processes: list[ProcessView]


@dataclass(frozen=True, slots=True)
class RequestTimelines:
    """The requests that run now, and those that ended since the last such event."""

    timelines: list[TimelineView]


Event = (
    ConnectionChange
    | Snapshot
    | Decided
    | Found
    | Lines
    | ProcessList
    | RequestTimelines
    | Experiment
)

_snapshot = msgspec.json.Decoder(Snapshot).decode
_decisions = msgspec.json.Decoder(list[DecisionView]).decode
_measurements = msgspec.json.Decoder(list[Measurement]).decode
_lines = msgspec.json.Decoder(list[LogView]).decode


def decode(name: str, data: bytes) -> Event | None:
    """Decode a server-sent event of ``/dynamo/stream``.

    Returns:
        the event; None if this version does not know its name, as with a newer server.

    Raises:
        msgspec.DecodeError: the data has another shape: the server is another version.
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
