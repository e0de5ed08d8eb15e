"""Finds stalled children: they have not ended, but do not answer. Pure but for `activity`.

The supervisor asks every ready child for a sign of life (`Ping`), and the loop of the child answers
(`Pong`); the loop of an engine does so between two steps. A child that a signal has stopped, or
that hangs in a step, does not answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from dynamo_cli.config import DEFAULT_WORKER_TIMEOUT_S
from dynamo_cli.host.activity import Activity
from dynamo_cli.supervisor.awake import AwakeClock
from dynamo_cli.topology import ProcessId, Role

LOOK_INTERVAL_S = 1.0
"""Longest time between two calls of `Liveness.look`, seconds."""

BUSY_FACTOR = 10
"""A child that uses CPU time gets this many times the timeout, because an engine may compile
kernels during a step."""

BUSY_SHARE = 0.05
"""A child that uses at least this share of one core counts as busy."""

QUICK_TIMEOUT_S = 5.0
"""Longest timeout for processes in `QUICK`, seconds."""

QUICK = (Role.ROUTER, Role.HOST_CACHE, Role.PREFILL_QUEUE, Role.RELAY)
"""Roles that have no long steps, and whose restart loses no request."""

ALWAYS = {Role.CLUSTER: DEFAULT_WORKER_TIMEOUT_S, Role.RELAY: QUICK_TIMEOUT_S}
"""Roles that are asked even if nobody else is, and their timeouts then, seconds: if one of them
hangs, nodes are lost, and no other process can tell why."""


class Stalled(NamedTuple):
    """A child that has not answered in time.

    Attributes:
        why: how long it has been silent, and whether it is stopped, hangs or is busy.
    """

    process: ProcessId
    why: str


@dataclass(slots=True)
class _Asked:
    """A child that has not answered yet.

    Attributes:
        pid: its process id, which changes with a restart.
        since_s: when it was asked, seconds by the time that the supervisor was awake.
        looked_s: when its CPU time was read last; before the first time, when it was asked.
        cpu_s: CPU time in seconds that it had used then; None before the first time.
    """

    pid: int
    since_s: float
    looked_s: float
    cpu_s: float | None = None


class Liveness:
    """Remembers which children were asked, and finds those that do not answer in time.

    Args:
        timeout_s: how long a child may take to answer, seconds; 0: only those in `ALWAYS`
            are asked.
        activity: tells whether the process with a pid is stopped, and its CPU time.
    """

    def __init__(self, timeout_s: float, activity: Callable[[int], Activity]) -> None:
        self._timeout_s = timeout_s
        self._activity = activity
        self._asked: dict[ProcessId, _Asked] = {}
        self._now_s = 0.0
        self._awake = AwakeClock(self.interval_s, lambda: self._now_s)

    @property
    def interval_s(self) -> float:
        """Seconds between two calls of `look`."""
        return min(LOOK_INTERVAL_S, self._timeout_s / 4) if self._timeout_s else LOOK_INTERVAL_S

    def answered(self, process: ProcessId) -> None:
        """Note that a child has given a sign of life."""
        self._asked.pop(process, None)

    def look(
        self, children: Iterable[tuple[ProcessId, int]], now_s: float
    ) -> tuple[list[ProcessId], list[Stalled]]:
        """Return the children to ask now, and those that have not answered in time.

        Args:
            children: the children that are ready, with their pids.
            now_s: monotonic time, seconds.
        """
        self._now_s = now_s
        awake_s = self._awake.look()  # the whole machine may have been stopped, or too busy
        ask: list[ProcessId] = []
        stalled: list[Stalled] = []
        for process, pid in children:
            asked = self._asked.get(process)
            if not self._timeout_of(process):
                continue
            if asked is None or asked.pid != pid:
                self._asked[process] = _Asked(pid, awake_s, awake_s)
                ask.append(process)
            elif (why := self._judge(process, asked, awake_s)) is not None:
                del self._asked[process]
                stalled.append(Stalled(process, why))
        return ask, stalled

    def _judge(self, process: ProcessId, asked: _Asked, now_s: float) -> str | None:
        """Return why a child counts as stalled; None if it does not."""
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
        timeout_s = self._timeout_s or ALWAYS.get(process.role, 0.0)
        return min(timeout_s, QUICK_TIMEOUT_S) if process.role in QUICK else timeout_s
