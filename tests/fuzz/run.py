"""Sends many requests to one server, and checks that it is as healthy as before."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from dynamo_cli.units import MIB
from tests.fuzz import mutations
from tests.fuzz.shot import Fault, Heard, Shot, fire
from tests.support import invariants
from tests.support.invariants import Census
from tests.support.server import Server

AT_ONCE = 8
LARGE = 4 * AT_ONCE

LEAST = 5 * LARGE
"""Fewest requests on a slow machine, so that every kind follows the large ones."""

EXAMPLES = 3
"""Most examples of each fault in the report."""

WARM_PART = 0.3
"""Share of the requests before memory is first measured: pools and caches are full then."""

GROWTH_BYTES = 96 * MIB
"""Most that a process may grow after that, however many requests it gets: more is a leak."""


@dataclass
class Outcome:
    """The result of a run.

    Attributes:
        statuses: counts by HTTP status; 0 where the client left, or there was no answer.
        faults: requests that were answered wrongly, with the answers.
        deaths: processes that were started again; the end of the server counts too.
        memory: MiB by process at the start, after the first requests and at the end.
        broken: invariants that did not hold at the end; empty if all did.
    """

    shape: str
    requests: int = 0
    slowest_s: float = 0.0
    statuses: Counter[int] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    faults: list[tuple[Shot, Heard]] = field(default_factory=list)
    deaths: list[str] = field(default_factory=list)
    memory: dict[str, list[int]] = field(default_factory=dict)
    broken: str = ""

    @property
    def grown(self) -> dict[str, int]:
        """Growth in bytes of each process that has grown too much."""
        return {
            name: sizes[2] - sizes[1]
            for name, sizes in self.memory.items()
            if len(sizes) == 3 and sizes[2] - sizes[1] > GROWTH_BYTES
        }

    @property
    def good(self) -> bool:
        return not (self.faults or self.deaths or self.grown or self.broken)

    def counted(self, *kinds: Fault) -> int:
        return sum(heard.fault in kinds for _, heard in self.faults)

    def note(self, shot: Shot, heard: Heard) -> None:
        self.requests += 1
        self.statuses[heard.status] += 1
        self.kinds[shot.kind] += 1
        self.slowest_s = max(self.slowest_s, heard.took_s)
        if heard.fault:
            self.faults.append((shot, heard))


def run(
    server: Server, shape: str, shots: Iterator[Shot], count: int, hang_s: float, until_s: float
) -> Outcome:
    """Send `count` requests, or as many as there is time for, but `LEAST` at least.

    Args:
        until_s: when to stop, on the clock of `time.monotonic`.
    """
    outcome = Outcome(shape)
    first = _census(server)
    assert first is not None, "it does not serve"
    _remember(outcome, first)
    warm = max(1, int(count * WARM_PART))
    # Allocators keep the memory that the largest requests have taken together.
    shots = itertools.chain(mutations.largest(0, LARGE), shots)
    _volley(server, outcome, itertools.islice(shots, warm), hang_s, until_s)
    if (census := _census(server)) is not None:
        _remember(outcome, census)
    _volley(server, outcome, itertools.islice(shots, count - warm), hang_s, until_s)
    try:
        invariants.check(server.look, first)
    except AssertionError as error:
        outcome.broken = str(error)
    last = _census(server)
    outcome.deaths = ["dynamo-llm"] if last is None else _reborn(server)
    if last is not None and not outcome.deaths:
        _remember(outcome, last)
    return outcome


def _volley(
    server: Server, outcome: Outcome, shots: Iterator[Shot], hang_s: float, until_s: float
) -> None:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        while some := list(itertools.islice(shots, 4 * AT_ONCE)):
            late = time.monotonic() > until_s and outcome.requests >= LEAST
            if late or server.process.poll() is not None:
                return
            heard = pool.map(lambda shot: fire(shot, server.port, hang_s), some)
            for shot, one in zip(some, heard, strict=True):
                outcome.note(shot, one)


def _census(server: Server) -> Census | None:
    snapshot = server.look()
    return None if snapshot is None else invariants.census(snapshot)


def _remember(outcome: Outcome, census: Census) -> None:
    for name, process in census.processes.items():
        outcome.memory.setdefault(name, []).append(process.rss_bytes)


def _reborn(server: Server) -> list[str]:
    return [
        f"{one['name']} ({one['restarts']} times)"
        for one in server.look()["processes"]
        if one["restarts"]
    ]


def report(outcome: Outcome) -> Iterator[str]:
    """Return the result in words."""
    errors = sum(n for status, n in outcome.statuses.items() if status >= 500)
    errors += outcome.counted(Fault.ERROR_EVENT)
    statuses = ", ".join(f"{status}: {n}" for status, n in sorted(outcome.statuses.items()))
    yield (
        f"{outcome.shape}: {outcome.requests} requests, {errors} 5xx, "
        f"{outcome.counted(Fault.HANG)} hangs, {len(outcome.deaths)} deaths, "
        f"{len(outcome.faults)} faults in all; slowest {outcome.slowest_s:.1f} s"
    )
    yield f"  status: {statuses}"
    yield "  kinds: " + ", ".join(f"{kind} {n}" for kind, n in sorted(outcome.kinds.items()))
    yield "  memory before, warm, after (MiB): " + "; ".join(
        f"{name} " + ", ".join(str(size // MIB) for size in sizes)
        for name, sizes in outcome.memory.items()
    )
    for name, size in outcome.grown.items():
        yield f"  GROWN: {name} by {size // MIB} MiB"
    for name in outcome.deaths:
        yield f"  DIED: {name}"
    if outcome.broken:
        yield f"  {outcome.broken}"
    yield from _examples(outcome)


def _examples(outcome: Outcome) -> Iterator[str]:
    told: Counter[tuple[str, str]] = Counter()
    for shot, heard in outcome.faults:
        sort = str(heard.fault), shot.path
        told[sort] += 1
        if told[sort] <= EXAMPLES:
            yield f"  {heard.fault} ({heard.status}) {shot}"
            yield f"    -> {heard.said[:300]!r}"
    for (fault, path), count in told.items():
        if count > EXAMPLES:
            yield f"  {fault} at {path}: {count} times"
