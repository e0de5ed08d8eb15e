"""Limits the time to the first token: a request that exceeds it is moved once, then it fails."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from dynamo_cli.engines.vllm.front.episodes import QUIET_S, Onsets
from dynamo_cli.engines.vllm.front.live import LiveRequest
from dynamo_cli.engines.vllm.front.workers import Workers
from dynamo_cli.errors import DynamoError, FirstTokenTimeout
from dynamo_cli.host import vital

logger = logging.getLogger(__name__)


class FirstTokenDeadlines:
    """Watches requests from the moment at which they are sent to a worker.

    A request whose time is over is moved if another worker takes requests. If none does, it gets
    the same time again where it is. When its time is over once more, it fails.

    Args:
        timeout_s: longest time to the first token on a worker, seconds; 0 for no limit.
        workers: tells which workers take requests.
        move: moves a request to another worker; ends it with the error if it finds none.
        fail: ends a request with an error.
    """

    def __init__(
        self,
        timeout_s: float,
        workers: Workers,
        move: Callable[[LiveRequest, DynamoError], None],
        fail: Callable[[LiveRequest, DynamoError], None],
    ) -> None:
        self.timeout_s = timeout_s
        self._workers = workers
        self._move = move
        self._fail = fail
        self._onsets = Onsets()

    def begin(self, live: LiveRequest) -> None:
        """Start the timer of a request that was just sent to a worker; not if it has a token."""
        self.end(live)
        if self.timeout_s and not live.output:
            loop = asyncio.get_running_loop()
            live.deadline = loop.call_later(self.timeout_s, self._is_over, live)

    def end(self, live: LiveRequest) -> None:
        """Stop the timer of a request, if it runs."""
        if live.deadline is not None:
            live.deadline.cancel()
            live.deadline = None

    @vital.callback
    def _is_over(self, live: LiveRequest) -> None:
        """Move or fail a request whose time is over, unless it has its first token."""
        if live.output:
            return
        waited = f"no first token for {self.timeout_s:g} s at worker {live.worker}"
        error = FirstTokenTimeout(f"the request had {waited}. Send it again later.")
        if live.overdue:
            self._tell(live, f"{waited}, again: it fails")
            self._fail(live, error)
        elif set(self._workers.ready_workers()) - {live.worker}:
            self._tell(live, f"{waited}: it moves")
            live.overdue = True
            self._move(live, error)
        else:
            self._tell(live, f"{waited}: it stays, since no other worker is up")
            live.overdue = True
            self.begin(live)

    def _tell(self, live: LiveRequest, what: str) -> None:
        """Warn once in an episode and worker: under overload, all requests have to wait."""
        if self._onsets.begins(live.worker, asyncio.get_running_loop().time()):
            logger.warning(
                "request %s: %s; there is no further line about this worker until %.0f s have "
                "passed without any",
                *(live.trace.api_id, what, QUIET_S),
            )
        else:
            logger.debug("request %s: %s", live.trace.api_id, what)
