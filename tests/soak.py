"""Everything at once, for as long as you like: does anything grow, stay, or not come back?

    python -m tests.soak [--minutes 30] [--engine mock]

Requests of all endpoints, clients that leave and bodies that nobody should send; meanwhile every
process is killed in turn. Once a minute the load stops until the server rests, the invariants of
docs/invariants.md are asserted, and a line per process says what it has: memory, descriptors, and
how much more than at the first rest. Takes as long as it is told to, so it is run by hand.

Exits with 1 when a request hung, an invariant did not hold, a process did not come back, has more
descriptors than at its first rest, or grows at every rest.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import signal
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

from dynamo_cli.units import MIB
from tests.fuzz import mutations
from tests.fuzz.shot import Fault, Shot, fire
from tests.support import invariants
from tests.support.invariants import Census, Process
from tests.support.server import SMALL, Server

SHAPE = ("--workers", "2", "--processors", "2", "--prefill-workers", "1", "--router", "kv")
ENGINES = {
    "tiny": ("--max-model-len", "512", *SMALL),
    "mock": ("--engine", "mock", "--speedup", "20"),
}
AT_ONCE = 8
HANG_S = 60.0
"""A queue that was killed is waited for up to 30 s; then a prompt is computed at home."""

ROUND_S, REST_S = 60.0, 60.0
KILL_EVERY_S = 15.0
"""So that none of them dies five times within five minutes, after which it would be given up."""

VALID_PART = 0.6
GROWTH_BYTES = 64 * MIB
RESTS = 6
"""At so many in a row a process must grow to be one that leaks."""

INHERITED = 4
"""Descriptors of one kind that a life forked later may have from the zygote."""

LOST = (Fault.SERVER_ERROR, Fault.ERROR_EVENT, Fault.NO_ANSWER, Fault.BROKEN_STREAM)
"""What may be heard of a request while processes are killed; nobody may hear nothing."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Load, rest, look; again and again.")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--engine", choices=ENGINES, default="tiny")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    end_s = time.monotonic() + 60 * options.minutes
    shots = _shots(options.seed)
    victims = itertools.cycle(_victims())
    wrong: list[str] = []
    first: Census | None = None
    growth = Growth()
    with Server(*SHAPE, *ENGINES[options.engine], fresh=True) as server:
        while not wrong and (first is None or time.monotonic() < end_s):
            heard = _round(server, shots, victims if first is not None else iter(()), wrong)
            census = _rest(server, wrong)
            first = first or census
            _tell(heard, census, first)
            wrong += growth.add(census) + _descriptors(first, census)
        if wrong:
            print(server.log[-4000:])
            server.kill()
    print("\n".join(wrong) or "all is well", flush=True)
    sys.exit(1 if wrong else 0)


def _victims() -> tuple[str, ...]:
    return (
        *("worker 0", "processor 0", "router", "prefill worker 0", "prefill queue"),
        *("worker 1", "processor 1", "frontend", "zygote"),
    )


def _shots(seed: int) -> Iterator[Shot]:
    dice = random.Random(seed)
    bad = mutations.shots(seed)
    while True:
        if dice.random() < VALID_PART:
            leave = dice.random() < 4 * mutations.LEAVE_PART
            yield Shot("valid", mutations.valid(dice, ""), leave)
        else:
            yield next(bad)


def _round(
    server: Server, shots: Iterator[Shot], victims: Iterator[str], wrong: list[str]
) -> Counter[str]:
    """Load for a while, with kills; how requests ended."""
    heard: Counter[str] = Counter()
    over = threading.Event()
    killer = threading.Thread(target=_kill, args=(server, victims, over))
    killer.start()
    end_s = time.monotonic() + ROUND_S
    with ThreadPoolExecutor(AT_ONCE) as pool:
        while time.monotonic() < end_s and not wrong:
            some = list(itertools.islice(shots, 4 * AT_ONCE))
            for shot, one in zip(
                some, pool.map(lambda shot: fire(shot, server.port, HANG_S), some), strict=True
            ):
                heard[str(one.fault or one.status)] += 1
                if one.fault and one.fault not in LOST:
                    wrong.append(f"{one.fault}: {shot} -> {one.said}")
    over.set()
    killer.join()
    return heard


def _kill(server: Server, victims: Iterator[str], over: threading.Event) -> None:
    while not over.wait(KILL_EVERY_S):
        victim = next(victims, None)
        try:
            pid = server.pid_of(victim) if victim else 0
        except (OSError, KeyError):
            continue  # the frontend is on its way back
        if pid:
            os.kill(pid, signal.SIGKILL)
            print(f"  killed: {victim}", flush=True)


def _rest(server: Server, wrong: list[str]) -> Census:
    """What the processes have once all are back and nothing is left of any request."""
    try:
        server.wait_ready()
        invariants.check(server.look, None, REST_S)
    except AssertionError as error:
        wrong.append(str(error)[-2000:])
    return invariants.census(server.look() or {"processes": []})


def _tell(heard: Counter[str], census: Census, first: Census) -> None:
    print(f"{sum(heard.values())} requests: {dict(heard.most_common())}")
    for name, now in census.processes.items():
        print(f"  {name:18} {_one(now, first.processes.get(name, now))}", flush=True)


def _one(now: Process, first: Process) -> str:
    fds = sum(now.descriptors.values())
    more = fds - sum(first.descriptors.values())
    rss = now.rss_bytes // MIB
    return f"{rss:5} MiB ({rss - first.rss_bytes // MIB:+}), {fds:4} descriptors ({more:+})"


class Growth:
    """Memory of the lives of all processes, rest after rest."""

    def __init__(self) -> None:
        self._sizes: defaultdict[tuple[str, int], list[int]] = defaultdict(list)

    def add(self, census: Census) -> list[str]:
        """Who has grown at every rest of late: what allocators keep goes up and down."""
        found = []
        for name, process in census.processes.items():
            sizes = self._sizes[name, process.pid]
            sizes.append(process.rss_bytes)
            last = sizes[-RESTS:]
            grown = all(one < other for one, other in pairwise(last))
            if len(last) == RESTS and grown and last[-1] - last[0] > GROWTH_BYTES:
                found.append(f"{name} has grown by {(last[-1] - last[0]) // MIB} MiB, and goes on")
        return found


def _descriptors(first: Census, now: Census) -> list[str]:
    """Who has more than at the first rest; a new life may have inherited a few, not ever more."""
    found: list[str] = []
    for name, process in now.processes.items():
        if (old := first.processes.get(name)) is None:
            continue
        allowed = 0 if process.pid == old.pid else INHERITED
        more = process.descriptors - old.descriptors
        if left := {kind: more[kind] for kind in invariants.KINDS if more[kind] > allowed}:
            found.append(f"{name} has more descriptors than at first: {left}")
    return found


if __name__ == "__main__":
    main()
