"""Fuzz servers of every shape: real engines and simulated ones, with and without prefill workers.

    python -m tests.fuzz [--requests 10000] [--shapes mock,tiny] [--seed 1]

Exits with 1 after any fault of the server: a 5xx, a hang, a process that died, an error in the
wrong shape, growing memory, or an invariant that does not hold (docs/invariants.md).
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
import time
from collections.abc import Iterator

from tests.fuzz import mutations
from tests.fuzz.run import Outcome, report, run
from tests.fuzz.shot import Shot
from tests.support.server import SMALL, Server

MOCK = ("--engine", "mock", "--speedup", "50")
TINY = ("--max-model-len", "256", *SMALL)
PREFILL = ("--prefill-workers", "1", "--conditional-disagg", "--max-local-prefill-length", "8")
SHAPES = {
    "mock": MOCK,
    "mock+prefill": (*MOCK, *PREFILL),
    "tiny": TINY,
    "tiny+prefill": (*TINY, *PREFILL),
}
BY_SCHEMA = 3
"""One of this many requests comes from schemathesis."""

DOCUMENT = "/openapi.json"
HANG_S = 10.0


def fuzz(
    shape: str, count: int, seed: int, hang_s: float = HANG_S, limit_s: float = math.inf
) -> Outcome:
    """Start a server of this shape and fuzz it for at most `limit_s` after it is ready."""
    from tests.fuzz import schema  # a second of imports

    with Server(*SHAPES[shape]) as server:
        status, document = server.get(DOCUMENT)
        shots = mutations.shots(seed)
        if status == 200:
            shots = _mixed(shots, schema.shots(document, seed))
        until_s = time.monotonic() + limit_s
        outcome = run(server, shape, shots, count, hang_s, until_s)
        if not outcome.good:
            server.kill()  # what it did wrong is known; how it ends no longer matters
    return outcome


def _mixed(ours: Iterator[Shot], theirs: Iterator[Shot]) -> Iterator[Shot]:
    while True:
        yield from itertools.islice(ours, BY_SCHEMA - 1)
        yield next(theirs)


def main() -> None:
    parser = argparse.ArgumentParser(description="Send what nobody should send.")
    parser.add_argument("--requests", type=int, default=10_000, help="over all shapes")
    parser.add_argument("--shapes", default=",".join(SHAPES))
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    shapes = options.shapes.split(",")
    good = True
    for shape in shapes:
        outcome = fuzz(shape, options.requests // len(shapes), options.seed)
        good &= outcome.good
        print("\n".join(report(outcome)), flush=True)
    print("all is well" if good else "there are faults", flush=True)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
