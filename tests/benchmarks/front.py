"""What processors and the frontend carry: bursts, short requests and streams, without a model.

    python -m tests.benchmarks.front [--against FOLDER] [--rounds 5] [--only burst,...]
                                     [--api /completions]

The whole server runs with a simulated engine (``--engine mock``), whose steps take the time that a
GPU would take, but no core. So the figures say what the other processes do. CPU time is told per
role. ``--against`` starts the server of another checkout beside it and measures both in turns.
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path

import uvloop

from dynamo_cli.lab.load.form import ApiPath
from tests.benchmarks import load
from tests.support.server import Server

START_S = 600.0
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
ROLES = ("frontend", "processor", "router", "worker")
OPTIONS = (
    *("--served-model-name", "bench", "--engine", "mock", "--workers", "1", "--ui", "plain"),
    *("--processors", "1", "--router", "kv"),
)

Figures = dict[str, float]


class Checkout(Server):
    """The server of a checkout.

    Args:
        folder: where it is; its virtual environment is used.
        options: more options.
    """

    def __init__(self, folder: Path, options: list[str]) -> None:
        self.command = (str(folder / ".venv/bin/dynamo-llm"),)
        environment = {"OMP_NUM_THREADS": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
        super().__init__(*OPTIONS, *options, ready=False, environment=environment)

    def cpu_s(self) -> dict[str, float]:
        """Return the CPU time of each role so far, seconds."""
        spent = dict.fromkeys(ROLES, 0.0)
        for name, process in self.processes().items():
            role = name.split()[0]
            if role in spent:
                stat = Path(f"/proc/{process['pid']}/stat").read_text()
                fields = stat.rpartition(")")[2].split()
                spent[role] += (int(fields[11]) + int(fields[12])) / TICKS_PER_S
        return spent


class Bench:
    """Measures one server."""

    def __init__(self, api: ApiPath) -> None:
        self._api = api

    def burst(self, server: Server, streams: int = 64) -> Figures:
        """Streams that begin together, of a few tokens each."""
        sample = uvloop.run(
            load.burst(server.port, "bench", count=streams, tokens=8, api=self._api)
        )
        return {
            f"TTFT p50, ms, {streams} at once": 1000 * _quantile(sample.ttft, 0.5),
            f"TTFT p99, ms, {streams} at once": 1000 * _quantile(sample.ttft, 0.99),
        }

    def alone(self, server: Server) -> Figures:
        """One stream after the other."""
        sample = self._streams(server, 1, each=20, tokens=8)
        return {"TTFT p50, ms, 1 stream": 1000 * _quantile(sample.ttft, 0.5)}

    def short(self, server: Checkout) -> Figures:
        """Requests for one token, 32 at the same time."""
        before = server.cpu_s()
        sample = uvloop.run(
            load.one_token(server.port, "bench", at_once=32, each=40, api=self._api)
        )
        spent = server.cpu_s()
        told = {"1-token requests/s": sample.requests / sample.wall_s}
        for role in ROLES:
            cpu_s = spent[role] - before[role]
            told[f"{role}: CPU ms per 1-token request"] = 1000 * cpu_s / sample.requests
        return told

    def tokens(self, server: Checkout, streams: int = 64) -> Figures:
        """Long streams."""
        before = server.cpu_s()
        sample = self._streams(server, streams, each=1, tokens=256)
        spent = server.cpu_s()
        told = {f"output tok/s, {streams} streams": sample.tokens / sample.wall_s}
        for role in ROLES:
            cpu_s = spent[role] - before[role]
            told[f"{role}: CPU us per token, {streams} streams"] = 1e6 * cpu_s / sample.tokens
        return told

    def many(self, server: Checkout) -> Figures:
        """Still more of them."""
        return self.tokens(server, 192)

    def _streams(self, server: Server, at_once: int, *, each: int, tokens: int) -> load.Sample:
        return uvloop.run(
            load.streams(
                server.port, "bench", at_once=at_once, each=each, tokens=tokens, api=self._api
            )
        )


CASES = ("burst", "alone", "short", "tokens", "many")


def _quantile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def row(name: str, sides: list[list[float]]) -> str:
    """Return a row: the median of each side, and the ratio first / second within a round."""
    told = " | ".join(f"{statistics.median(side):.4g}" for side in sides)
    if len(sides) == 1:
        return f"| {name} | {told} | {min(sides[0]):.4g} to {max(sides[0]):.4g} |"
    ratios = [ours / theirs for ours, theirs in zip(*sides, strict=True) if theirs]
    if not ratios:
        return f"| {name} | {told} | | |"
    spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
    return f"| {name} | {told} | {statistics.median(ratios):.2f} | {spread} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--against", type=Path, help="another checkout")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default=",".join(CASES), help=f"of {','.join(CASES)}")
    parser.add_argument("--api", type=ApiPath, default=ApiPath.CHAT, help="path after /v1")
    parser.add_argument("options", nargs="*", help="more options for the servers, after --")
    given = parser.parse_args()
    folders = [Path.cwd()] + ([given.against] if given.against else [])
    servers = [Checkout(folder, given.options) for folder in folders]
    bench = Bench(given.api)
    with ExitStack() as stack:
        for server in servers:
            stack.enter_context(server)
        for server in servers:
            server.wait_ready(START_S)
        for case in given.only.split(","):
            figures: dict[str, list[list[float]]] = defaultdict(lambda: [[] for _ in servers])
            for number in range(given.rounds + 1):
                for place in sorted(range(len(servers)), reverse=bool(number % 2)):
                    for name, figure in getattr(bench, case)(servers[place]).items():
                        if number:  # the first round warms up
                            figures[name][place].append(figure)
            for name, sides in figures.items():
                print(row(name, sides), flush=True)
    print(f"\n{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {given.rounds} rounds")


if __name__ == "__main__":
    main()
