"""When requests are sent. Pure: times from the start of a run, in seconds."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import NamedTuple


class Closed(NamedTuple):
    """So many clients, each of which asks again when it has its answer."""

    clients: int


class Poisson(NamedTuple):
    """At random, so many per second in the mean, whatever the answers take."""

    per_s: float


class AsRecorded(NamedTuple):
    """As a trace has it, so many times as fast."""

    speed: float


Pace = Closed | Poisson | AsRecorded


class Bounds(NamedTuple):
    """When a run ends: by whichever comes first; None is no bound.

    Attributes:
        duration_s: after which nothing is sent any more; what is under way is awaited.
    """

    requests: int | None = None
    duration_s: float | None = None

    def part(self, number: int, of: int) -> Bounds:
        """Of the parts into which this is cut, that with this number (from 0)."""
        requests, duration_s = self
        if requests is not None:
            requests = requests * (number + 1) // of - requests * number // of
        return Bounds(requests, None if duration_s is None else duration_s / of)


def poisson(per_s: float, seed: str) -> Iterator[float]:
    """Arrival times without end."""
    dice, now_s = random.Random(seed), 0.0
    while True:
        now_s += dice.expovariate(per_s)
        yield now_s
