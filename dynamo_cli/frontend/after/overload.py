"""Tells in the log that the server is overloaded: once when that begins, and once when it ends."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter

from dynamo_cli.errors import LinkFull, Overloaded, TooManyRequests
from dynamo_cli.host import vital

CAUSES = {
    TooManyRequests.code: "as many requests are in flight as --max-inflight allows",
    Overloaded.code: "as many connections, bodies or requests are open as may be; the limit of "
    "open files (ulimit -Hn) bounds connections",
    LinkFull.code: "a process does not read in time what it is sent",
}
"""What each kind of failure means by which an overloaded server refuses requests."""

QUIET_S = 30.0
"""An episode of overload is over when nothing was refused for so long, seconds.

Clients try again within seconds, so a shorter time would end an episode between two tries."""

logger = logging.getLogger(__name__)


class Episode:
    """Requests that are refused one soon after the other. Pure."""

    def __init__(self) -> None:
        self._refused: Counter[str] = Counter()
        self._began_s = self._last_s = 0.0

    def refused(self, kind: str, now_s: float) -> bool:
        """Count a refused request; returns whether an episode begins with it."""
        begins = not self._refused
        if begins:
            self._began_s = now_s
        self._refused[kind] += 1
        self._last_s = now_s
        return begins

    def rest_s(self, now_s: float) -> float:
        """Seconds until the episode is over if nothing more is refused; 0 if it is over."""
        return max(0.0, self._last_s + QUIET_S - now_s)

    def end(self) -> str:
        """End the episode; returns what it was, for the log."""
        kinds = ", ".join(f"{kind} {count}" for kind, count in self._refused.most_common())
        text = (
            f"not overloaded any more: {self._refused.total()} requests were refused in "
            f"{self._last_s - self._began_s:.0f} s ({kinds})"
        )
        self._refused.clear()
        return text


class OverloadLog:
    """Logs the episodes in which requests are refused."""

    def __init__(self) -> None:
        self._episode = Episode()

    def failed(self, kind: str) -> None:
        """Note a request that failed; kinds of failure that are no overload are ignored."""
        if kind not in CAUSES or not self._episode.refused(kind, time.monotonic()):
            return
        logger.warning(
            "overloaded: requests are refused (%s): %s; dynamo_llm_errors_total counts them, and "
            "there is no further line until %.0f s have passed without any",
            kind,
            CAUSES[kind],
            QUIET_S,
        )
        self._wait(QUIET_S)

    def _wait(self, delay_s: float) -> None:
        asyncio.get_running_loop().call_later(delay_s, self._look)

    @vital.callback
    def _look(self) -> None:
        rest_s = self._episode.rest_s(time.monotonic())
        if rest_s > 0:
            self._wait(rest_s)
        else:
            logger.warning("%s", self._episode.end())
