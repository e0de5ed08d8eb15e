"""Short requests are prepared one after the other, each to its end.

Template, tokenizer and checks of a request are a chain of awaits. If sixteen requests went through
that chain side by side, the first would reach its engine only when the last is prepared. The same
would happen if all were prepared within one iteration of the event loop, since the router's answers
are read between iterations, and so are the tokens of streams. So each has an iteration of its own.
"""

from __future__ import annotations

import asyncio
from collections import deque
from functools import partial

from dynamo_cli.engines.vllm.front.trace import RequestTrace
from dynamo_cli.host import vital

PATIENCE_S = 0.05
"""If a preparation takes longer, seconds, those that wait for it begin: it may hang."""


class OneAtATime:
    """Gives each request its turn, in the order in which they came."""

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._busy = self._watching = False
        self._turn = 0

    async def begin(self, trace: RequestTrace) -> None:
        """Wait until no other request is being prepared, or one hangs.

        The turn of the request ends with ``trace.prepared()``.
        """
        if self._busy:
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            self._watch()
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():  # it was its turn
                    self._next()
                raise
        self._busy = True
        self._turn += 1
        trace.release = partial(self._end, self._turn)

    def _end(self, turn: int) -> None:
        if turn != self._turn:  # others did not wait for its end
            return
        if self._waiting:
            self._next()  # it goes on in the next iteration
        else:
            asyncio.get_running_loop().call_soon(self._next)

    @vital.callback
    def _next(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._busy = False

    def _watch(self) -> None:
        """Look after a while whether the same request still has its turn: one timer for all."""
        if not self._watching:
            self._watching = True
            loop = asyncio.get_running_loop()
            loop.call_later(PATIENCE_S, self._look, self._turn)

    @vital.callback
    def _look(self, turn: int) -> None:
        self._watching = False
        if not self._waiting:
            return
        if turn == self._turn:
            while self._waiting:
                self._next()
        else:
            self._watch()
