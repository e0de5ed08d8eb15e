"""Compares vLLM's own server with ours: same model and engine options, measured alternately. One is
paused while the other is measured.

    python -m tests.benchmarks.serve [--model tiny] [--rounds 5] [--only start,load,...] [--aa]
                                     [--rust]

Prints one Markdown row per figure: vLLM's and ours (medians over the rounds), and the ratio ours /
vLLM's of each round as median and range. ``--aa`` compares vLLM's with itself, to show the noise.
``--rust`` compares ours with vLLM's engine behind its frontend in Rust, which pip fetches.
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence

import uvloop

from dynamo_cli.models import catalog
from tests.benchmarks import load
from tests.benchmarks.servers import OURS, RUST, THEIRS, Running, alone

REQUESTS_EACH = {1: 20, 16: 6, 64: 3}
"""Number of concurrent streams -> number of requests of each, one after the other."""

SECTIONS = ("start", "workers", "load", "requests", "prompts", "connections", "memory")
PROMPTS = (2000, 16_000)
"""Lengths of long prompts, tokens."""
TOKENS = 128
ONE_TOKEN_CLIENTS = 16

Figures = dict[str, list[tuple[float, float]]]
"""Figure -> (vLLM's, ours) of each round."""


class Comparison:
    """Both servers, and the measurements so far.

    Args:
        model: folder of the model.
        rounds: number of rounds.
        kinds: the kinds of the servers: vLLM's, and the one that is compared with it.
    """

    def __init__(self, model: str, rounds: int, kinds: tuple[str, str]) -> None:
        self._model = model
        self._rounds = rounds
        self._kinds = kinds
        self.figures: Figures = defaultdict(list)
        self._told = 0

    def start(self) -> None:
        """Measure the time to the first answer, seconds."""
        for _ in range(self._rounds):
            self._add("seconds to the first answer", *map(self._start_once, self._kinds))

    def _start_once(self, kind: str) -> float:
        server = Running(kind, self._model)
        try:
            return server.wait_answer()
        finally:
            server.stop()

    def workers(self) -> None:
        """Measure the time until one worker, and until four workers are ready, seconds; ours
        only."""
        for _ in range(self._rounds):
            self._add("four workers ready (ours), against one", *map(self._workers_once, (1, 4)))

    def _workers_once(self, workers: int) -> float:
        server = Running(OURS, self._model, "--workers", str(workers))
        try:
            return server.wait_serving()
        finally:
            server.stop()

    def against_running(self, sections: Sequence[str]) -> None:
        """Measure all figures for which both servers must be up."""
        servers = [Running(kind, self._model) for kind in self._kinds]
        try:
            for server in servers:
                server.wait_answer()
            measures: dict[str, Callable[[list[Running]], None]] = {
                "load": self._load,
                "requests": self._requests,
                "prompts": self._prompts,
                "connections": self._connections,
                "memory": self._memory,
            }
            for name in sections:
                if name in measures:
                    measures[name](servers)
                    self.tell()
        finally:
            for server in servers:
                server.stop()

    def tell(self) -> None:
        """Print the rows of the figures that were not printed yet."""
        for name, pairs in list(self.figures.items())[self._told :]:
            print(row(name, pairs), flush=True)
        self._told = len(self.figures)

    def _load(self, servers: list[Running]) -> None:
        for at_once, each in REQUESTS_EACH.items():
            self.tell()
            for number in range(self._rounds + 1):
                samples = []
                for server in servers:
                    with alone(server, servers):
                        samples.append(self._stream(server, at_once, each))
                if number == 0:
                    continue  # warms up both servers
                names = samples[0].keys()
                for name in names:
                    self._add(f"{name}, {at_once} streams", *(sample[name] for sample in samples))

    @staticmethod
    def _stream(server: Running, at_once: int, each: int) -> dict[str, float]:
        cpu_s = server.cpu_s()
        sample = uvloop.run(
            load.streams(server.port, "bench", at_once=at_once, each=each, tokens=TOKENS)
        )
        cpu_s = server.cpu_s() - cpu_s
        return {
            "TTFT p50, ms": 1000 * quantile(sample.ttft, 0.5),
            "TTFT p99, ms": 1000 * quantile(sample.ttft, 0.99),
            "ITL p50, ms": 1000 * quantile(sample.itl, 0.5),
            "ITL p99, ms": 1000 * quantile(sample.itl, 0.99),
            "output tok/s": sample.tokens / sample.wall_s,
            "CPU ms per output token": 1000 * cpu_s / sample.tokens,
        }

    def _requests(self, servers: list[Running]) -> None:
        for _ in range(self._rounds):
            rates = []
            for server in servers:
                with alone(server, servers):
                    sample = uvloop.run(
                        load.one_token(server.port, "bench", at_once=ONE_TOKEN_CLIENTS, each=25)
                    )
                rates.append(sample.requests / sample.wall_s)
            self._add(f"1-token requests/s, {ONE_TOKEN_CLIENTS} connections", *rates)

    def _prompts(self, servers: list[Running]) -> None:
        for tokens in PROMPTS:
            for shared in (0.0, 0.8):
                for number in range(self._rounds + 1):
                    times = []
                    for server in servers:
                        with alone(server, servers):
                            asked = load.long_prompts(server.port, "bench", tokens, shared, number)
                            times.append(uvloop.run(asked))
                    if number == 0:
                        continue  # warms up both servers
                    name = f"TTFT p50, ms, prompts of {tokens:,} tokens, {shared:.0%} shared"
                    self._add(name, *(1000 * quantile(one, 0.5) for one in times))
                self.tell()

    def _connections(self, servers: list[Running]) -> None:
        for _ in range(self._rounds):
            for server in servers:
                with alone(server, servers):
                    new, kept = (self._first_token(server, kept) for kept in (False, True))
                self._add(f"TTFT p50, ms: {server.kind}, kept connection against new", new, kept)

    @staticmethod
    def _first_token(server: Running, kept: bool) -> float:
        times = uvloop.run(load.first_tokens(server.port, "bench", count=40, kept=kept))
        return 1000 * quantile(times, 0.5)

    def _memory(self, servers: list[Running]) -> None:
        self._add("memory, MiB", *(server.memory_mib() for server in servers))

    def _add(self, figure: str, first: float, second: float) -> None:
        self.figures[figure].append((first, second))


HEAD = "| | vLLM | dynamo-llm | ratio | range |\n|---|--:|--:|--:|--:|"


def row(name: str, pairs: list[tuple[float, float]]) -> str:
    """Return a row of the Markdown table."""
    ratios = [ours / theirs for theirs, ours in pairs]
    theirs, ours = (statistics.median(side) for side in zip(*pairs, strict=True))
    spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
    return f"| {name} | {theirs:.4g} | {ours:.4g} | {statistics.median(ratios):.2f} | {spread} |"


def quantile(values: list[float], share: float) -> float:
    """Return the value below which this share of the values is."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="tiny", help="tiny, demo or a folder")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default=",".join(SECTIONS), help=f"of {','.join(SECTIONS)}")
    parser.add_argument("--aa", action="store_true", help="theirs against theirs")
    parser.add_argument("--rust", action="store_true", help="vLLM's with its frontend in Rust")
    given = parser.parse_args()
    model = catalog.resolve(given.model, lambda progress: None).path
    sections = given.only.split(",")
    kinds = (RUST if given.rust else THEIRS, THEIRS if given.aa else OURS)
    comparison = Comparison(model, given.rounds, kinds)
    print(HEAD, flush=True)
    for name in ("start", "workers"):
        if name in sections:
            getattr(comparison, name)()
            comparison.tell()
    if set(sections) - {"start", "workers"}:
        comparison.against_running(sections)
    load_average = os.getloadavg()[0]
    print(
        f"\n{os.cpu_count()} cores, load {load_average:.1f}, {given.rounds} rounds, {given.model}"
    )


if __name__ == "__main__":
    main()
