"""Finds children that do not answer any more, although they run. Pure but for what it is given.

The supervisor asks every ready child for a sign of life (`Ping`), and its loop answers (`Pong`): an
engine's between two steps. A child that is stopped, or hangs in a step, does not answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from dynamo_cli.host.activity import Activity
from dynamo_cli.topology import ProcessId, Role

LOOK_INTERVAL_S = 1.0
BUSY_FACTOR = 10
"""A child that uses the processor gets so many times the timeout: kernels may be compiled during a
step."""

BUSY_SHARE = 0.05
"""Share of one core from which on a child counts as busy."""

QUICK_TIMEOUT_S = 5.0
"""Longest timeout for what has no long steps, and whose new start loses nothing."""

QUICK = (Role.ROUTER, Role.PREFILL_QUEUE)


class Stalled(NamedTuple):
    """A child that does not answer.

    Attributes:
        why: since when, and what the kernel says of it.
    """

    process: ProcessId
    why: str


@dataclass(slots=True)
class _Asked:
    """A child that has not answered yet.

    Attributes:
        pid: of the child that was asked.
        since_s: when it was asked.
        looked_s: when its processor time was read last; at first the same.
        cpu_s: the processor time that it had used then; None if it was not read yet.
    """

    pid: int
    since_s: float
    looked_s: float
    cpu_s: float | None = None


class Liveness:
    """Who was asked, and has not answered.

    Args:
        timeout_s: how long a child may take to answer; 0 is for ever.
        activity: what the process with this pid does.
    """

    def __init__(self, timeout_s: float, activity: Callable[[int], Activity]) -> None:
        self._timeout_s = timeout_s
        self._activity = activity
        self._asked: dict[ProcessId, _Asked] = {}
        self._looked_s: float | None = None

    @property
    def interval_s(self) -> float:
        """How often `look` is to be called; 0 is never."""
        return min(LOOK_INTERVAL_S, self._timeout_s / 4)

    def answered(self, process: ProcessId) -> None:
        """A child has given a sign of life."""
        self._asked.pop(process, None)

    def look(
        self, children: Iterable[tuple[ProcessId, int]], now_s: float
    ) -> tuple[list[ProcessId], list[Stalled]]:
        """Return those to ask now, and those that have not answered for too long.

        Args:
            children: the children that are ready, with their pids.
            now_s: monotonic time, seconds.
        """
        if self._looked_s is not None and now_s - self._looked_s > 3 * self.interval_s + 1:
            self._asked.clear()  # this process stood still itself, and perhaps the whole machine
        self._looked_s = now_s
        ask: list[ProcessId] = []
        stalled: list[Stalled] = []
        for process, pid in children:
            asked = self._asked.get(process)
            if asked is None or asked.pid != pid:
                self._asked[process] = _Asked(pid, now_s, now_s)
                ask.append(process)
            elif (why := self._judge(process, asked, now_s)) is not None:
                del self._asked[process]
                stalled.append(Stalled(process, why))
        return ask, stalled

    def _judge(self, process: ProcessId, asked: _Asked, now_s: float) -> str | None:
        """Return why a child counts as stalled; None while it does not."""
        silent_s = now_s - asked.since_s
        timeout_s = self._timeout_of(process)
        window_s = now_s - asked.looked_s
        if asked.cpu_s is None:
            if silent_s >= timeout_s / 2:
                asked.looked_s, asked.cpu_s = now_s, self._activity(asked.pid).cpu_s
            return None
        was_busy = asked.looked_s - asked.since_s >= timeout_s
        if silent_s < timeout_s or (was_busy and window_s < timeout_s / 2):
            return None
        does = self._activity(asked.pid)
        busy = does.cpu_s - asked.cpu_s > BUSY_SHARE * window_s
        asked.looked_s, asked.cpu_s = now_s, does.cpu_s
        if busy and not does.stopped and silent_s < BUSY_FACTOR * timeout_s:
            return None
        state = "a signal has stopped it" if does.stopped else "it hangs" if not busy else "busy"
        return f"no sign of life for {silent_s:.0f} s ({state})"

    def _timeout_of(self, process: ProcessId) -> float:
        return min(self._timeout_s, QUICK_TIMEOUT_S) if process.role in QUICK else self._timeout_s
