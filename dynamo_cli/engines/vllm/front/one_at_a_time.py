"""Short requests are prepared one after the other, each to its end.

Template, tokenizer and checks of a request are a chain of awaits. If sixteen requests went through
that chain side by side, the first would reach its engine only when the last is prepared.
"""

from __future__ import annotations

import asyncio

from dynamo_cli.engines.vllm.front.trace import RequestTrace

PATIENCE_S = 0.05
"""Longest wait for the lock, seconds: a preparation that hangs must not hold up the others."""


class OneAtATime:
    """A lock for the preparation of requests."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()

    async def begin(self, trace: RequestTrace) -> None:
        """Wait until no other request is being prepared, or until `PATIENCE_S` is over.

        The request keeps the lock until ``trace.prepared()``.
        """
        if not self._lock.locked():
            await self._lock.acquire()
            trace.release = self._lock.release
            return
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self._lock.acquire()
        except TimeoutError:
            return
        trace.release = self._lock.release
