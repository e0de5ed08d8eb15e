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

MS_NS = 1_000_000
SPAN_MS = 1 << 33
"""Beyond every time since the start of a machine, so that an urgent request stays urgent."""

LEAST, MOST = -(1 << 30), (1 << 30) - 1
"""Priorities beyond are as these: a turn is a number of 64 bits. Nine digits are within."""


def due_turn(priority: int, arrival_ns: int, prefill_s: float) -> int:
    """The place of a request; smaller comes first.

    Args:
        priority: what the client wants, any number: smaller comes first, whatever is due.
        arrival_ns: by the monotonic clock, which all processes of a machine share.
        prefill_s: of what its worker does not hold.
    """
    due_ms = arrival_ns // MS_NS + int(1000 * prefill_s)
    return min(max(priority, LEAST), MOST) * SPAN_MS + min(due_ms, SPAN_MS - 1)
