"""What disaggregation does to short chats while long prompts arrive.

    python -m tests.benchmarks.disagg [--model tiny|demo] [--rounds 5] [--seconds 10]

Three servers with two engines each run at the same time and are driven alternately. In the first,
both engines do everything (aggregated). In the second, one prefills and one decodes (1P1D). In the
third, only long prompts are sent to the prefill worker (conditional). In a round each of them gets
the same load: short chats that stream one after the other, and long prompts that arrive at fixed
times and ask for a few tokens.

Prints Markdown: TTFT of both classes and gaps between tokens of the short one (medians over the
rounds), and ratios to the aggregated server within each round as median and range.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import statistics
import time

from dynamo_cli.lab.load.form import ApiPath
from dynamo_cli.models import catalog
from tests.benchmarks.load import Sample, client_of, request
from tests.benchmarks.servers import OURS, Running

CHATS = 4
CHAT_WORDS, CHAT_TOKENS = 20, 64
LONG_WORDS, LONG_TOKENS = 1300, 8
ENGINE = ("--block-size", "32", "--max-model-len", "4096", "--engine-threads", "1")
SERVERS = {
    "aggregated": ("--workers", "2"),
    "1P1D": ("--workers", "1", "--prefill-workers", "1"),
    "conditional 1P1D": ("--workers", "1", "--prefill-workers", "1", "--conditional-disagg"),
}
Figures = dict[str, float]


async def drive(port: int, seconds: float, every_s: float) -> Figures:
    """Drive both classes at the same time."""
    short, long = Sample(), Sample()
    client = client_of(port)
    end = time.perf_counter() + seconds

    async def talk() -> None:
        while time.perf_counter() < end:
            body = request("bench", CHAT_TOKENS, count=CHAT_WORDS)
            short.add(await client.stream(ApiPath.CHAT, body))

    async def one_long() -> None:
        body = request("bench", LONG_TOKENS, count=LONG_WORDS)
        long.add(await client.stream(ApiPath.CHAT, body))

    async def longs() -> None:
        running = []
        while time.perf_counter() < end:
            running.append(asyncio.create_task(one_long()))
            await asyncio.sleep(every_s)
        await asyncio.gather(*running)

    await asyncio.gather(*(talk() for _ in range(CHATS)), longs())
    client.close()
    return {
        "short TTFT p50": percentile(short.ttft, 0.5),
        "short TTFT p95": percentile(short.ttft, 0.95),
        "short ITL p50": percentile(short.itl, 0.5),
        "short ITL p99": percentile(short.itl, 0.99),
        "long TTFT p50": percentile(long.ttft, 0.5),
        "long TTFT p95": percentile(long.ttft, 0.95),
        "short tok/s": short.tokens / seconds,
    }


def percentile(values: list[float], rank: float) -> float:
    """Return a percentile in milliseconds."""
    ordered = sorted(values)
    return 1000 * ordered[min(int(len(ordered) * rank), len(ordered) - 1)]


def table(rounds: list[dict[str, Figures]]) -> None:
    names = list(rounds[0]["aggregated"])
    print("| | " + " | ".join(f"{name}, ms" if "/" not in name else name for name in names) + " |")
    print("|---|" + "--:|" * len(names))
    for server in SERVERS:
        cells = (statistics.median(one[server][name] for one in rounds) for name in names)
        print(f"| {server} | " + " | ".join(f"{cell:.4g}" for cell in cells) + " |")
    for server in list(SERVERS)[1:]:
        print(
            f"| {server} / aggregated | "
            + " | ".join(ratio(rounds, server, n) for n in names)
            + " |"
        )


def ratio(rounds: list[dict[str, Figures]], server: str, name: str) -> str:
    ratios = [one[server][name] / one["aggregated"][name] for one in rounds]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def measure(model: str, rounds: int, seconds: float, every_s: float) -> list[dict[str, Figures]]:
    path = catalog.resolve(model, lambda _: None).path
    servers: dict[str, Running] = {}
    try:
        for name, args in SERVERS.items():
            servers[name] = Running(OURS, path, *ENGINE, *args)
        for server in servers.values():
            server.wait_answer()
        results = []
        order = list(servers)
        for number in range(rounds + 1):
            random.shuffle(order)
            result = {
                name: asyncio.run(drive(servers[name].port, seconds, every_s)) for name in order
            }
            if number:  # the first round warms up
                results.append(result)
        return results
    finally:
        for server in servers.values():
            server.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description="What disaggregation does to short chats.")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--every", type=float, default=0.5, help="seconds between long prompts")
    options = parser.parse_args()
    print(f"{os.cpu_count()} cores, {options.model}, load {os.getloadavg()[0]:.1f}\n")
    table(measure(options.model, options.rounds, options.seconds, options.every))


if __name__ == "__main__":
    main()
