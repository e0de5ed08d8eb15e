"""The order in which an engine takes the requests that wait there. Pure.

With first come, first served, all requests wait behind a long prompt; with the shortest prompt
first, a long one may wait for ever. The rule here lies in between: a request is due at its arrival
time plus the time of its own prefill, and the engine takes the request that is due first. So a
prompt that takes three seconds is overtaken only by requests that arrive within the next three
seconds and take less time. The short requests wait much less than with first come, first served,
and the long one waits only for a few short ones. (In job-shop scheduling these are due dates by
total work content: Conway, "Priority dispatching and job lateness in a job shop", 1965.) The rule
is used by ``--router kv`` with costs in time; otherwise only the priority counts.
"""

from __future__ import annotations

from collections.abc import Callable

from dynamo_cli.units import MS_NS

SPAN_MS = 1 << 33
"""Range of the due times within one priority, milliseconds: 99 days. A later due time is cut to
this range, so that a request with a smaller priority always comes first."""

ERA_MS = SPAN_MS // 2
"""Due times are counted from the start of an era, so that they fit into `SPAN_MS`. After this time,
in milliseconds, a new era begins as soon as no request waits; after twice this time it begins in
any case."""

LEAST, MOST = -(1 << 30), (1 << 30) - 1
"""Bounds of a priority, so that an engine order fits into 64 bits. Every number of nine digits lies
within them; a priority beyond a bound counts as the bound."""


class EngineOrder:
    """Gives each request the number by which its engine orders those that wait.

    The numbers of two eras cannot be compared. So the next era begins only when no request waits:
    then there is no older number to compare with.
    """

    def __init__(self) -> None:
        self._start_ms: int | None = None

    def due(
        self, priority: int, arrival_ns: int, prefill_s: float, nobody_waits: Callable[[], bool]
    ) -> int:
        """Return the engine order of a request; the smallest is taken first.

        Args:
            priority: the client's, any number. A request with a smaller one always comes first.
            arrival_ns: when the router got the request, CLOCK_MONOTONIC, nanoseconds.
            prefill_s: time that its worker needs for the tokens that it has not cached, seconds.
            nobody_waits: tells whether all placed requests have had their first token.
        """
        arrival_ms = arrival_ns // MS_NS
        start_ms = self._start_ms = self._era_start_ms(arrival_ms, nobody_waits)
        due_ms = arrival_ms - start_ms + int(1000 * prefill_s)
        return min(max(priority, LEAST), MOST) * SPAN_MS + min(max(due_ms, 0), SPAN_MS - 1)

    def _era_start_ms(self, now_ms: int, nobody_waits: Callable[[], bool]) -> int:
        start_ms, newest_ms = self._start_ms, now_ms // ERA_MS * ERA_MS
        if start_ms is None:
            return newest_ms
        if newest_ms <= start_ms:
            return start_ms
        # After two eras the next one begins even if requests wait: due times would be cut
        # otherwise.
        late = newest_ms - start_ms > ERA_MS
        return newest_ms if late or nobody_waits() else start_ms
