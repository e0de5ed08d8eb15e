"""Requests that come together are prepared one after the other, each to its end.

Template, tokenizer and checks of a request are a chain of awaits. Left to the loop, sixteen
requests go through it side by side, and the first is with its engine only when the last is ready.
"""

from __future__ import annotations

import asyncio

from dynamo_cli.engines.vllm.front.trace import RequestTrace

PATIENCE_S = 0.05
"""The longest wait for a turn: a chain that hangs somewhere must not hold up the others."""


class Turns:
    """One turn at a time."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()

    async def take(self, trace: RequestTrace) -> None:
        """Wait for the turn; it lasts until ``trace.prepared()``."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self._lock.acquire()
        except TimeoutError:
            return
        trace.end_turn = self._lock.release
