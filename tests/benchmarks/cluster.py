"""What workers on other nodes cost, and how far one head carries. Engines are simulated.

    python -m tests.benchmarks.cluster start [--rounds 3] [--workers 4] [--real]
    python -m tests.benchmarks.cluster overhead [--rounds 5]
    python -m tests.benchmarks.cluster rate [--workers 64] [--nodes 4] [--streams 256]
    python -m tests.benchmarks.cluster head [--workers 8] [--streams 64] [--processors 2]

The nodes are on this machine, at 127.0.0.1, so that everything shares its cores. `start` is the
time until all is ready: two nodes with half of the workers each against one host with all of them,
in turns (with ``--real``: tiny engines of vLLM). `overhead` sends the same load to both, in turns.
`rate` loads many workers on several nodes. `head` measures without other nodes what each process of
a head computes for a token: its reciprocal is the rate at which the process is full.

Prints Markdown. CPU time is that of each process, so that other work on the machine counts little.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.load import Sample, streams
from tests.cluster.nodes import Nodes
from tests.support.server import SMALL, Server, children_of

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
START_S = 600.0
MOCK = ("--engine", "mock", "--ui", "plain")
TITLE = re.compile(r"^dynamo-llm: ([a-z ]*[a-z])")
TOKENS, EACH = 256, 2
FRONT = ("frontend", "processor", "router", "relay")
"""Processes that tokens or requests pass on their way between the client and a worker."""


class Run(Server):
    """A server whose end is not examined, since other work on the machine leaves files too."""

    def assert_nothing_left(self, below: set[int], timeout_s: float = 2.0) -> None: ...


# -- servers -----------------------------------------------------------------------------------


@contextmanager
def served(*options: str, nodes: Nodes | None = None) -> Iterator[Server]:
    """A server that is ready, on these nodes or on this host alone."""
    ray = ("--ray", nodes.address) if nodes else ()
    environment = nodes.environment if nodes else {}
    with Run(*options, *ray, ready=False, environment=environment) as server:
        server.wait_ready(START_S)
        yield server


def cpu_by_role(server: Server, nodes: Nodes | None) -> Counter[str]:
    """CPU time so far of all processes of a run, seconds, by role."""
    found: Counter[str] = Counter()
    pids = {
        server.process.pid,
        *children_of(server.process.pid),
        *(nodes.outposts() if nodes else ()),
    }
    for pid in pids:
        try:
            title = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        match = TITLE.match(title)
        role = match[1] if match else "other"
        found[role] += (int(fields[11]) + int(fields[12])) / TICKS_PER_S
    return found


@dataclass
class Loaded:
    """One load: what clients saw, and the CPU time of each role, seconds."""

    sample: Sample
    cpu_s: Counter[str]

    def us_per_token(self, *roles: str) -> float:
        """CPU time of these roles for each token, microseconds; of all without an argument."""
        spent_s = sum(self.cpu_s[role] for role in roles or self.cpu_s)
        return 1e6 * spent_s / self.sample.tokens


def loaded(server: Server, nodes: Nodes | None, at_once: int) -> Loaded:
    """Put load on a server."""
    before = cpu_by_role(server, nodes)
    sample = asyncio.run(streams(server.port, "tiny", at_once=at_once, each=EACH, tokens=TOKENS))
    spent = cpu_by_role(server, nodes)
    spent.subtract(before)
    return Loaded(sample, spent)


# -- measurements ------------------------------------------------------------------------------


def start(options: argparse.Namespace) -> None:
    engine = ("--ui", "plain", *SMALL) if options.real else MOCK
    line = (*engine, "--workers", str(options.workers), "--router", "kv")
    times: dict[str, list[float]] = {"one host": [], "two nodes": []}
    with Nodes("node-a", "node-b") as nodes:
        for _ in range(options.rounds):
            for name, where in (("one host", None), ("two nodes", nodes)):
                began = time.monotonic()
                with served(*line, nodes=where):
                    times[name].append(time.monotonic() - began)
                    print(f"{name}: {times[name][-1]:.1f} s", flush=True)
    one, two = times.values()
    ratios = [there / here for here, there in zip(one, two, strict=True)]
    print("\n| | one host, s | two nodes, s | ratio |\n|---|--:|--:|--:|")
    name = "tiny engines" if options.real else "simulated engines"
    print(
        f"| {name} | {statistics.median(one):.1f} | {statistics.median(two):.1f} "
        f"| {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) |"
    )


def overhead(options: argparse.Namespace) -> None:
    line = (*MOCK, "--workers", "4", "--router", "kv", "--processors", "1")
    rounds: list[tuple[Loaded, Loaded]] = []
    with (
        Nodes("node-a", "node-b") as nodes,
        served(*line) as here,
        served(*line, nodes=nodes) as there,
    ):
        for number in range(options.rounds + 1):
            pair = [(here, None), (there, nodes)]
            done = [loaded(*one, options.streams) for one in pair[:: -1 if number % 2 else 1]]
            if number:  # the first one warms up
                rounds.append((done[-1], done[0]) if number % 2 else (done[0], done[1]))
    print("\n| | local links | relayed links | ratio |\n|---|--:|--:|--:|")
    for name, figure in (
        ("TTFT p50, ms", lambda one: 1000 * statistics.median(one.sample.ttft)),
        ("ITL p50, ms", lambda one: 1000 * statistics.median(one.sample.itl)),
        ("CPU of all processes, us per token", Loaded.us_per_token),
        ("CPU of the relays, us per token", lambda one: one.us_per_token("relay")),
    ):
        local, relayed = ([figure(pair[at]) for pair in rounds] for at in (0, 1))
        ratios = [two / one for one, two in zip(local, relayed, strict=True) if one]
        spread = (
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            if ratios
            else ""
        )
        print(
            f"| {name} | {statistics.median(local):.3g} | {statistics.median(relayed):.3g} "
            f"| {spread} |"
        )


def rate(options: argparse.Namespace) -> None:
    names = [f"node-{number}" for number in range(options.nodes)]
    line = ("--workers", str(options.workers), "--router", "kv")
    with Nodes(*names) as nodes:
        began = time.monotonic()
        with served(*MOCK, *line, "--processors", str(options.processors), nodes=nodes) as server:
            print(
                f"{options.workers} workers on {options.nodes} nodes: ready in "
                f"{time.monotonic() - began:.0f} s"
            )
            loaded(server, nodes, options.streams)
            show(loaded(server, nodes, options.streams), options)


def head(options: argparse.Namespace) -> None:
    line = ("--workers", str(options.workers), "--router", "kv")
    with served(*MOCK, *line, "--processors", str(options.processors)) as server:
        loaded(server, None, options.streams)
        show(loaded(server, None, options.streams), options)


def show(done: Loaded, options: argparse.Namespace) -> None:
    """Print what each role computed, and when one process of it would be full."""
    sample = done.sample
    print(
        f"{sample.tokens / sample.wall_s:,.0f} tokens/s, {sample.requests / sample.wall_s:.1f} "
        f"requests/s, ITL p50 {1000 * statistics.median(sample.itl):.1f} ms, load of the machine "
        f"{os.getloadavg()[0]:.0f}"
    )
    print("\n| process | CPU, us per token | one process is full at, tokens/s |\n|---|--:|--:|")
    for role in sorted(done.cpu_s, key=lambda one: -done.cpu_s[one]):
        spent_us = done.us_per_token(role)
        if spent_us > 0.05:
            full = f"{1e6 / spent_us:,.0f}" if role in FRONT else ""
            print(f"| {role} | {spent_us:.1f} | {full} |")


def main() -> None:
    parser = argparse.ArgumentParser(description="What workers on other nodes cost.")
    parser.add_argument("what", choices=("start", "overhead", "rate", "head"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--real", action="store_true", help="tiny engines of vLLM")
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--processors", type=int, default=1)
    options = parser.parse_args()
    {"start": start, "overhead": overhead, "rate": rate, "head": head}[options.what](options)


if __name__ == "__main__":
    main()
