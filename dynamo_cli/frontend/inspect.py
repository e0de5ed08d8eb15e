"""What `/health` and `/dynamo/*` tell of the tree."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from dynamo_cli.errors import InvalidRequest
from dynamo_cli.messages import Phase
from dynamo_cli.telemetry.decisions import KEPT, DecisionLog
from dynamo_cli.telemetry.logs import LogRing
from dynamo_cli.telemetry.snapshot import Snapshot
from dynamo_cli.telemetry.timelines import TimelineLog

DEFAULT_LIMIT = 100
DEFAULT_INTERVAL_S, MIN_INTERVAL_S, MAX_INTERVAL_S = 0.25, 0.25, 10.0

_encode = msgspec.json.Encoder().encode


def health(snapshot: Snapshot) -> dict[str, Any]:
    """Whether requests can be answered, and why not, for each process."""
    whole = all(process.phase == Phase.READY for process in snapshot.processes)
    return {
        "status": ("ok" if whole else "degraded") if snapshot.serving else "unavailable",
        "reason": snapshot.reason,
        "warnings": snapshot.warnings,
        "processes": msgspec.to_builtins(snapshot.processes),
    }


def decisions(log: DecisionLog, query: Mapping[str, str], now_ns: int) -> bytes:
    """The last decisions as JSON, newest first.

    Args:
        query: limit, worker, request_id.

    Raises:
        InvalidRequest: another name, or a value that cannot be.
    """
    _known(query, "limit", "worker", "request_id")
    chosen = log.select(
        now_ns,
        limit=int(_number(query, "limit", 1, KEPT, DEFAULT_LIMIT)),
        worker=int(_number(query, "worker", -1, 1 << 16, 0)) if "worker" in query else None,
        request_id=query.get("request_id"),
    )
    return _encode({"decisions": chosen, "dropped": log.dropped})


def timelines(log: TimelineLog, query: Mapping[str, str], now_ns: int) -> bytes:
    """When the last requests were where as JSON, newest first.

    Args:
        query: limit, request_id.

    Raises:
        InvalidRequest: another name, or a value that cannot be.
    """
    _known(query, "limit", "request_id")
    limit = int(_number(query, "limit", 1, KEPT, DEFAULT_LIMIT))
    chosen = log.select(now_ns, limit=limit, request_id=query.get("request_id"))
    return _encode({"timelines": chosen})


def stream_interval_s(query: Mapping[str, str]) -> float:
    """How often a watcher wants to hear. Raises `InvalidRequest`."""
    _known(query, "interval")
    return _number(query, "interval", MIN_INTERVAL_S, MAX_INTERVAL_S, DEFAULT_INTERVAL_S)


class Broadcast:
    """The snapshot, and news of routing and logs, as server-sent events.

    Args:
        snapshot: gives the state of the tree.
        log: the decisions.
        lines: what processes log.
        clock_ns: the time.
    """

    def __init__(
        self,
        snapshot: Callable[[], Snapshot],
        log: DecisionLog,
        lines: LogRing,
        clock_ns: Callable[[], int],
    ) -> None:
        self._snapshot = snapshot
        self._log = log
        self._lines = lines
        self._clock_ns = clock_ns
        self._made_ns = 0
        self._made = b""
        self._closed = asyncio.Event()

    def close(self) -> None:
        """Let all watchers go."""
        self._closed.set()

    async def watch(self, write: Callable[[bytes], bool], interval_s: float) -> None:
        """Send until the watcher is too slow or all are let go; cancelled when it leaves."""
        decision = measurement = line = 0
        limit = DEFAULT_LIMIT
        while not self._closed.is_set():
            decisions = self._log.select(self._clock_ns(), after=decision, limit=limit)
            measured = self._log.measurements(measurement)
            lines = self._lines.select(line)
            decision = decisions[0].number if decisions else decision
            measurement = measured[-1].number if measured else measurement
            line = lines[-1].number if lines else line
            # What a newcomer missed has a bound; what happens while it watches has not.
            limit = KEPT
            news = (
                _event("decisions", decisions)
                + _event("measured", measured)
                + _event("logs", lines)
            )
            if not write(self._snapshot_event() + news):
                return
            try:
                await asyncio.wait_for(self._closed.wait(), interval_s)
            except TimeoutError:
                continue

    def _snapshot_event(self) -> bytes:
        now = self._clock_ns()
        if now - self._made_ns > MIN_INTERVAL_S * 0.5e9:
            self._made = _event("snapshot", self._snapshot())
            self._made_ns = now
        return self._made


def _event(name: str, content: object) -> bytes:
    """One server-sent event; none when there is nothing to tell."""
    return b"event: %b\ndata: %b\n\n" % (name.encode(), _encode(content)) if content else b""


def _known(query: Mapping[str, str], *names: str) -> None:
    for name in query:
        if name not in names:
            raise InvalidRequest(
                f"there is no query parameter {name!a} here; there is {', '.join(names)}."
            )


def _number(query: Mapping[str, str], name: str, low: float, high: float, default: float) -> float:
    if (text := query.get(name)) is None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not low <= value <= high:
        raise InvalidRequest(f"{name} is a number from {low:g} to {high:g}, not {text!a}.")
    return value
