"""Waits for requests in flight while the server ends, and reports how many are left."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine

from dynamo_cli.messages.lifecycle import StillRunning
from dynamo_cli.watch.meter import Meter

REPORT_S = 5.0
"""Time between two reports, seconds."""


async def finish(
    meter: Meter,
    idle: Callable[[], Coroutine[object, object, None]],
    report: Callable[[StillRunning], object],
    timeout_s: float,
) -> None:
    """Wait until no request is in flight, for `timeout_s` seconds at most.

    Args:
        meter: knows how many are in flight.
        idle: waits until there is none.
        report: is told at intervals what is left.
    """
    until_s = time.monotonic() + timeout_s
    while meter.in_flight and (left_s := until_s - time.monotonic()) > 0:
        report(StillRunning(meter.in_flight, left_s))
        await at_most(min(left_s, REPORT_S), idle())


async def at_most(timeout_s: float, work: Coroutine[object, object, object]) -> None:
    """Do the work, but cancel it when the time is over."""
    try:
        async with asyncio.timeout(timeout_s):
            await work
    except TimeoutError:
        pass  # the caller looks at what is left
