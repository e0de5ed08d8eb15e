"""The content of `/health`, `/dynamo/decisions` and `/dynamo/timeline`, and their queries."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from itertools import chain, islice
from typing import Any

import msgspec

from dynamo_cli.errors import InvalidRequest
from dynamo_cli.messages.lifecycle import Phase
from dynamo_cli.watch.decisions import KEPT, DecisionLog
from dynamo_cli.watch.schema import Snapshot
from dynamo_cli.watch.timelines import TimelineLog, TimelineView

NO_ONE = "none"
"""Value of the query parameter ``worker`` for decisions that no worker could take the request."""

ENDED, RUNNING, ALL = "ended", "running", "all"
"""Values of the query parameter ``state``."""

DEFAULT_LIMIT = 100
PAGE = 64
DEFAULT_INTERVAL_S, MIN_INTERVAL_S, MAX_INTERVAL_S = 0.25, 0.25, 10.0

DEFAULT_RECORD_S, MAX_RECORD_S = 3600.0, 7 * 86400.0

_encode = msgspec.json.Encoder().encode


def health(snapshot: Snapshot) -> dict[str, Any]:
    """The answer of `/health`: whether requests are served, why not, and all processes."""
    whole = all(process.phase == Phase.READY for process in snapshot.processes)
    return {
        "status": ("ok" if whole else "degraded") if snapshot.serving else "unavailable",
        "reason": snapshot.reason,
        "warnings": snapshot.warnings,
        "asleep": [f"worker {worker.worker}" for worker in snapshot.workers if worker.asleep],
        "processes": msgspec.to_builtins(snapshot.processes),
    }


async def decisions(log: DecisionLog, query: Mapping[str, str], now_ns: int) -> bytes:
    """The last decisions as JSON, newest first.

    Args:
        query: may have limit, worker (an index, or `NO_ONE`), request_id and moved.

    Raises:
        InvalidRequest: another parameter, or an invalid value.
    """
    _known(query, "limit", "worker", "request_id", "moved")
    unplaced = query.get("worker") == NO_ONE
    of_one = "worker" in query and not unplaced
    chosen = log.views(
        now_ns,
        limit=int(_number(query, "limit", 1, KEPT, DEFAULT_LIMIT)),
        worker=int(_number(query, "worker", 0, 1 << 16, 0)) if of_one else None,
        unplaced=unplaced,
        request_id=query.get("request_id"),
        moved=_truth(query, "moved"),
    )
    return b'{"decisions":%b,"dropped":%d}' % (await _pages(chosen), log.dropped)


async def timelines(
    log: TimelineLog,
    running: Callable[[int], list[TimelineView]],
    query: Mapping[str, str],
    now_ns: int,
) -> bytes:
    """The timelines of requests as JSON: first those that run, then those that ended, each newest
    first.

    Args:
        log: requests that ended.
        running: returns the requests that run.
        query: may have limit, request_id, moved, state (`ENDED` by default, `RUNNING` or `ALL`)
            and after (only ended requests with a higher number).

    Raises:
        InvalidRequest: another parameter, or an invalid value.
    """
    _known(query, "limit", "request_id", "moved", "state", "after")
    limit = int(_number(query, "limit", 1, KEPT, DEFAULT_LIMIT))
    name, moved = query.get("request_id"), _truth(query, "moved")
    state = _choice(query, "state", ENDED, RUNNING, ALL)
    after = int(_number(query, "after", 0, 1 << 53, 0))
    now = [
        view
        for view in (running(now_ns) if state != ENDED else ())
        if name in (None, view.request_id) and moved in (None, bool(view.moves))
    ]
    if state == RUNNING:
        past: Iterator[TimelineView] = iter(())
    else:
        past = log.views(now_ns, limit=limit, request_id=name, moved=moved, after=after)
    return b'{"timelines":%b}' % await _pages(islice(chain(now, past), limit))


async def _pages(views: Iterator[Any]) -> bytes:
    """A JSON list, encoded in pages so that the loop can serve streams in between."""
    parts = []
    while page := list(islice(views, PAGE)):
        parts.append(_encode(page)[1:-1])
        await asyncio.sleep(0)
    return b"[%b]" % b",".join(parts)


def stream_interval_s(query: Mapping[str, str]) -> float:
    """The time between two snapshots of a stream. Raises `InvalidRequest`."""
    _known(query, "interval")
    return _number(query, "interval", MIN_INTERVAL_S, MAX_INTERVAL_S, DEFAULT_INTERVAL_S)


def record_seconds(query: Mapping[str, str]) -> float:
    """The time whose requests are asked for. Raises `InvalidRequest`."""
    _known(query, "seconds")
    return _number(query, "seconds", 1, MAX_RECORD_S, DEFAULT_RECORD_S)


def _known(query: Mapping[str, str], *names: str) -> None:
    for name in query:
        if name not in names:
            raise InvalidRequest(
                f"unknown query parameter {name!a}; this path takes {', '.join(names)}."
            )


def _truth(query: Mapping[str, str], name: str) -> bool | None:
    if (text := query.get(name)) is None:
        return None
    if text not in ("true", "false"):
        raise InvalidRequest(f"{name} must be true or false; it is {text!a}.")
    return text == "true"


def _choice(query: Mapping[str, str], name: str, *values: str) -> str:
    """One of these values; the first is the default."""
    if (text := query.get(name, values[0])) not in values:
        raise InvalidRequest(f"{name} must be one of {', '.join(values)}; it is {text!a}.")
    return text


def _number(query: Mapping[str, str], name: str, low: float, high: float, default: float) -> float:
    if (text := query.get(name)) is None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not low <= value <= high:
        raise InvalidRequest(f"{name} must be a number from {low:g} to {high:g}; it is {text!a}.")
    return value
