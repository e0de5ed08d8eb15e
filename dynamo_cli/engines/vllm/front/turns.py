"""Short requests are prepared in small groups, each group to its end.

Template, tokenizer and checks of a request are a chain of awaits, most often without a pause. If
the requests of a burst went through that chain side by side, or within one iteration of the event
loop, the first would reach its engine only when the last is prepared: the router's answers are read
between iterations, and so are the tokens of streams. If each had an iteration of its own, engines
would make more and smaller steps, and all processes would be woken up more often.
"""

from __future__ import annotations

import asyncio
from collections import deque
from functools import partial

from dynamo_cli.engines.vllm.front.trace import RequestTrace
from dynamo_cli.host import vital

GROUP = 8
"""Most requests of a group. Together they take up to 8 ms, which is about as long as a worker takes
at most to let requests into its engine between two steps."""

PATIENCE_S = 0.05
"""Seconds after which all requests that wait begin, since one of the running group may hang."""


class Groups:
    """Gives the requests their turns, in the order in which they came."""

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[int]] = deque()
        self._group = 0  # number of the group
        self._left = GROUP  # requests that can still join it
        self._running = 0  # requests of it that are being prepared
        self._ending = self._watching = False

    async def begin(self, trace: RequestTrace) -> None:
        """Wait until there is room in a group, or one hangs.

        The turn of the request ends with ``trace.prepared()``.
        """
        if self._left:  # then nobody waits
            self._left -= 1
            self._running += 1
            group = self._group
        else:
            turn: asyncio.Future[int] = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            self._watch()
            try:
                group = await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():  # it was its turn
                    self._end(turn.result())
                raise
        trace.release = partial(self._end, group)

    def _end(self, group: int) -> None:
        if group != self._group:  # others did not wait for its end
            return
        self._running -= 1
        if not self._running and not self._ending:
            self._ending = True
            asyncio.get_running_loop().call_soon(self._next)

    @vital.callback
    def _next(self) -> None:
        """Begin the next group, in a new iteration of the loop, if the last one has ended."""
        self._ending = False
        if not self._running:
            self._begin(GROUP)

    def _begin(self, most: int) -> None:
        self._group += 1
        self._left, self._running = most, 0
        while self._left and self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(self._group)
                self._left -= 1
                self._running += 1

    def _watch(self) -> None:
        """Look after a while whether it is still the same group: one timer for all."""
        if not self._watching:
            self._watching = True
            loop = asyncio.get_running_loop()
            loop.call_later(PATIENCE_S, self._look, self._group)

    @vital.callback
    def _look(self, group: int) -> None:
        self._watching = False
        if not self._waiting:
            return
        if group == self._group:
            self._begin(len(self._waiting))
        else:
            self._watch()
