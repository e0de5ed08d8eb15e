"""When requests are sent. Pure: times are seconds since the start of a run."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import NamedTuple


class Closed(NamedTuple):
    """A number of clients, each of which sends its next request when it has its answer."""

    clients: int


class Poisson(NamedTuple):
    """Random arrivals at a mean rate, independent of the answers."""

    per_s: float


class AsRecorded(NamedTuple):
    """Arrivals as recorded in a trace, `speed` times as fast."""

    speed: float


Pace = Closed | Poisson | AsRecorded


class Bounds(NamedTuple):
    """When a run ends: at the first bound that is reached. None is no bound.

    Attributes:
        requests: number of requests.
        duration_s: time after which no request is sent; those in progress are awaited.
    """

    requests: int | None = None
    duration_s: float | None = None

    def part(self, number: int, of: int) -> Bounds:
        """Return part `number` (from 0) of `of` equal parts."""
        requests, duration_s = self
        if requests is not None:
            requests = requests * (number + 1) // of - requests * number // of
        return Bounds(requests, None if duration_s is None else duration_s / of)


def poisson(per_s: float, seed: str) -> Iterator[float]:
    """Generate arrival times without end, seconds."""
    dice, now_s = random.Random(seed), 0.0
    while True:
        now_s += dice.expovariate(per_s)
        yield now_s
