"""Garbage collection in a process that must not stand still.

Python looks through all objects that have lived for a while in one go, again and again while their
number grows. Where requests have made a million objects, this takes a quarter of a second each
time, in which nothing else runs. Nearly all objects go without it, because nothing refers to them
any more.
"""

from __future__ import annotations

import asyncio
import gc
import time

from dynamo_cli.host import vital

INTERVAL_S = 20.0
"""Shortest time between two collections of old objects."""

SHARE = 1e-3
"""Largest share of the time that is spent on collections of old objects."""

_NEVER = 2**31 - 1


def collect_seldom(loop: asyncio.AbstractEventLoop) -> None:
    """Exempt the objects that there are, and collect old ones at intervals from now on.

    Young objects are collected as before. The longer a collection takes, the later is the next one.
    """
    gc.collect()
    gc.freeze()
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, _NEVER)

    @vital.callback
    def collect() -> None:
        began = time.perf_counter()
        gc.collect()
        took_s = time.perf_counter() - began
        loop.call_later(max(INTERVAL_S, took_s / SHARE), collect)

    loop.call_later(INTERVAL_S, collect)
