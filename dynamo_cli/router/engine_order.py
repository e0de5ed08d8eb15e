"""In which order an engine takes the requests that wait there. Pure.

First come, first served lets everybody wait behind a long prompt; the shortest first lets a long
one wait for ever. In between: a request is due when its first token could come at the earliest,
which is its arrival and the time of its own prefill, and who is due first comes first. So a prompt
of three seconds is overtaken by those who come within three seconds after it and take less, and by
nobody else; those who gain wait for a fraction of what they would have, and the long one waits for
a few short ones more. (Due dates by total work content: Conway, "Priority dispatching and job
lateness in a job shop", 1965, with an allowance of the work itself.)
"""

from __future__ import annotations

from collections.abc import Callable

MS_NS = 1_000_000
SPAN_MS = 1 << 33
"""Of the times that turns tell apart, so that an urgent request stays urgent: 99 days."""

ERA_MS = SPAN_MS // 2
"""Times are counted from the start of an era; there is a whole one to go on from it to the next."""

LEAST, MOST = -(1 << 30), (1 << 30) - 1
"""Priorities beyond are as these: a turn is a number of 64 bits. Nine digits are within."""


class Turns:
    """The places of requests; smaller comes first.

    Turns of two eras cannot be compared. So the next one begins when nobody waits: then there is
    no turn that another one would be compared with.
    """

    def __init__(self) -> None:
        self._start_ms = -1

    def due(
        self, priority: int, arrival_ns: int, prefill_s: float, nobody_waits: Callable[[], bool]
    ) -> int:
        """The place of a request.

        Args:
            priority: what the client wants, any number: smaller comes first, whatever is due.
            arrival_ns: by the monotonic clock, which all processes of a machine share.
            prefill_s: of what its worker does not hold.
            nobody_waits: whether the first tokens of all that were placed have come.
        """
        arrival_ms = arrival_ns // MS_NS
        self._keep_up(arrival_ms, nobody_waits)
        due_ms = arrival_ms - self._start_ms + int(1000 * prefill_s)
        return min(max(priority, LEAST), MOST) * SPAN_MS + min(max(due_ms, 0), SPAN_MS - 1)

    def _keep_up(self, now_ms: int, nobody_waits: Callable[[], bool]) -> None:
        newest_ms = now_ms // ERA_MS * ERA_MS
        if newest_ms <= self._start_ms:
            return
        # Should somebody have waited for a whole era, it is later than any order could last.
        late = newest_ms - self._start_ms > ERA_MS
        if self._start_ms < 0 or late or nobody_waits():
            self._start_ms = newest_ms
