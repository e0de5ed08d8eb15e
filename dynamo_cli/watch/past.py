"""The few figures of the last seconds that rules for alarms need. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from dynamo_cli.errors import NotReady
from dynamo_cli.watch.schema import Snapshot

SPAN_S = 30.0
"""How far back rules look, seconds."""


@dataclass(frozen=True, slots=True)
class Look:
    """The figures of one moment.

    Attributes:
        at_s: uptime of the frontend, seconds.
        waiting: requests that wait at any box.
        preemptions: preemptions of all engines since the start.
        unrecorded: requests that could not be recorded since the start.
        unwritten: lines of the log that could not be written since the start.
        serving: whether requests could be served.
        not_ready: requests since the start that came while no process could take them.
    """

    at_s: float
    waiting: int
    preemptions: int
    unrecorded: int
    unwritten: int = 0
    serving: bool = True
    not_ready: int = 0

    @classmethod
    def of(cls, snapshot: Snapshot) -> Look:
        """Take the figures of a snapshot."""
        return cls(
            snapshot.uptime_s,
            snapshot.queues.waiting,
            sum(worker.preemptions for worker in snapshot.workers),
            sum(snapshot.host.unrecorded.values()),
            snapshot.unwritten_log_lines,
            snapshot.serving,
            snapshot.errors.get(NotReady.code, 0),
        )


class Past:
    """The looks of the last `SPAN_S` seconds.

    Args:
        looks: oldest first; at least one.
    """

    def __init__(self, looks: Sequence[Look]) -> None:
        self._looks = looks

    @property
    def whole(self) -> bool:
        """Whether it reaches back over nearly all of `SPAN_S`."""
        return self._looks[-1].at_s - self._looks[0].at_s >= 0.9 * SPAN_S

    @property
    def preempted(self) -> int:
        """Number of preemptions in this time."""
        return max(self._looks[-1].preemptions - self._looks[0].preemptions, 0)

    @property
    def unrecorded(self) -> int:
        """Number of requests that could not be recorded in this time."""
        return max(self._looks[-1].unrecorded - self._looks[0].unrecorded, 0)

    @property
    def unwritten(self) -> int:
        """Number of lines of the log that could not be written in this time."""
        return max(self._looks[-1].unwritten - self._looks[0].unwritten, 0)

    @property
    def not_ready_while_serving(self) -> int:
        """Number of requests that came while no process could take them although the server has
        served all the time since."""
        looks = list(takewhile(lambda look: look.serving, reversed(self._looks)))
        return max(looks[0].not_ready - looks[-1].not_ready, 0) if looks else 0

    def growth_per_s(self, seconds: float = 10.0) -> float:
        """Return by how many waiting requests more there were each second of the last ones."""
        last = self._looks[-1]
        first = next(look for look in self._looks if look.at_s >= last.at_s - seconds)
        passed_s = last.at_s - first.at_s
        return (last.waiting - first.waiting) / passed_s if passed_s > 0 else 0.0

    def thirds(self) -> list[list[int]]:
        """Return the numbers of waiting requests in the three thirds of this time."""
        begin, end = self._looks[0].at_s, self._looks[-1].at_s
        parts: list[list[int]] = [[], [], []]
        for look in self._looks:
            place = int(3 * (look.at_s - begin) / max(end - begin, 1e-9))
            parts[min(place, 2)].append(look.waiting)
        return parts
