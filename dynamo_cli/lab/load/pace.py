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


def words(pace: Pace) -> str:
    """When requests are sent, for people."""
    match pace:
        case Closed(clients):
            return "1 client" if clients == 1 else f"{clients} clients"
        case Poisson(per_s):
            return f"{per_s:g} requests/s at random times"
        case AsRecorded(speed):
            faster = "" if speed == 1 else f", {speed:g} times as fast"
            return f"at the times of the trace{faster}"


class Bounds(NamedTuple):
    """When a run ends: at the first bound that is reached. None is no bound.

    Attributes:
        requests: number of requests.
        duration_s: time after which no request is sent; those in progress are awaited.
    """

    requests: int | None = None
    duration_s: float | None = None

    @property
    def words(self) -> str:
        """They for people; empty without a bound."""
        count = None if self.requests is None else f"{self.requests} requests"
        time = None if self.duration_s is None else f"{self.duration_s:g} s"
        return " or ".join(filter(None, (count, time)))

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
