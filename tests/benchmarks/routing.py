"""What KV routing gains: one workload through several policies alternately, on real engines.

    python -m tests.benchmarks.routing [--model tiny] [--workers 2] [--rounds 10] [--quick]
    python -m tests.benchmarks.routing --model demo --systems 4 --concurrency 4 --rounds 3
    python -m tests.benchmarks.routing --model demo --systems 12 --concurrency 4 --rounds 3 \
        --only "kv,kv with host cache" --cache-ratio 0.2

The tiny model computes a prompt in hardly more time than it takes to transmit it, so only its
cached share is meaningful. The demo model, hundreds of times larger, shows what caching is worth.

All servers run at the same time, but only one of them has load at any time: kv with each of its
costs, least-loaded, round-robin, and round-robin once more for the noise (A/A). In each round each
of them gets the same conversations, which are new in this round; the order of the servers changes
from round to round. The cache of one engine holds clearly less than the text of a round, and the
caches of all engines of a server hold a little more. The same is repeated with prompts that share
nothing, where routing cannot gain anything.

Prints Markdown: the figures of each policy (medians over the rounds), and their ratios within
each round as median and range.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path

import uvloop
from tokenizers import Tokenizer

from dynamo_cli.lab.load import workload
from dynamo_cli.lab.load.drive import Driver
from dynamo_cli.lab.load.form import Form
from dynamo_cli.lab.load.pace import Bounds, Closed
from dynamo_cli.lab.load.workload import Conversation, Talks, WorkloadShape
from dynamo_cli.lab.report import Gaps, Outcome, Summary, quantile, summarize
from dynamo_cli.models import catalog
from tests.benchmarks.load import client_of
from tests.benchmarks.servers import OURS, Running

BLOCK, CONTEXT = 32, 1536
CACHE_RATIO = 1.2
"""Size of the caches of all engines of a server, relative to the text of a round."""

CONTENDERS = {
    "kv": ("kv",),
    "kv, blocks": ("kv", "--kv-cost", "blocks"),
    "kv, shares": ("kv", "--kv-cost", "shares"),
    "least-loaded": ("least-loaded",),
    "kv with host cache": ("kv", "--host-cache", "2GiB"),
    "round-robin": ("round-robin",),
    "round-robin again": ("round-robin",),
}
"""By name, the words that follow --router."""

BY_DEFAULT = [name for name in CONTENDERS if "host cache" not in name]

PAIRS = (
    ("kv", "round-robin"),
    ("kv", "least-loaded"),
    ("kv", "kv, blocks"),
    ("kv", "kv, shares"),
    ("kv with host cache", "kv"),
    ("round-robin again", "round-robin"),
)


@dataclass
class Run:
    """The results of one workload.

    Attributes:
        cpu_s: CPU time of all processes of the server.
    """

    outcomes: list[Outcome]
    cpu_s: float

    @cached_property
    def summary(self) -> Summary:
        return summarize(self.outcomes, Gaps())

    def ttft_ms(self, share: float) -> float:
        return 1000 * quantile(sorted(one.ttft_s for one in self.outcomes), share)


async def converse(port: int, people: list[Conversation], at_once: int, seed: str) -> list[Outcome]:
    """Run all turns of all conversations with `at_once` clients."""
    client = client_of(port)
    talks = Talks(people, len(people), seed, endless=False)
    driver = Driver(client, Form("bench"), talks, Closed(at_once), seed)
    await driver.run(Bounds())
    client.close()
    assert not driver.failed, driver.examples
    return driver.rounds[0].outcomes


FIGURES: dict[str, Callable[[Run], float]] = {
    "cached prompt tokens, %": lambda run: 100 * (run.summary.hit_ratio or 0),
    "TTFT mean, ms": lambda run: run.summary.ttft_ms.mean if run.summary.ttft_ms else 0.0,
    "TTFT p50, ms": lambda run: run.ttft_ms(0.5),
    "TTFT p95, ms": lambda run: run.ttft_ms(0.95),
    "output tok/s": lambda run: run.summary.output_tokens_per_s,
    "requests/s": lambda run: run.summary.requests_per_s,
    "CPU ms per request": lambda run: 1000 * run.cpu_s / run.summary.requests,
}

SHARED = WorkloadShape(
    systems=12,
    conversations=2,
    turns=5,
    system_tokens=(400, 600),
    user_tokens=(30, 80),
    answer_tokens=(16, 32),
)
UNIFORM = replace(SHARED, systems=60, conversations=1, turns=1)

Rounds = list[dict[str, Run]]
"""Results by name of the policy, one for each round."""


def measure(
    servers: dict[str, Running], shape: WorkloadShape, options: argparse.Namespace, per_word: float
) -> Rounds:
    """Run all rounds, after the beginning of one that warms up all servers and is not counted."""
    rounds: Rounds = []
    names = list(servers)
    for number in range(options.rounds + 1):
        seed = f"{shape}, round {number}"
        endless = workload.conversations(shape, seed, per_word)
        count = shape.systems * shape.conversations if number else options.concurrency
        people = list(islice(endless, count))
        turn = number % len(names)
        rounds.append(
            {
                name: _drive(servers[name], people, options.concurrency, seed)
                for name in names[turn:] + names[:turn]
            }
        )
    return rounds[1:]


def bound(servers: dict[str, Running]) -> str:
    """How much of the prompts since the start was in earlier prompts, in words.

    More can be found, since parts of earlier answers are cached too.
    """
    views = [server.snapshot()["router"] for server in servers.values()]
    known = [view["overall"]["limit"] or 0.0 for view in views if view is not None]
    share = f"{100 * max(known):.1f} %" if known else "an unknown share"
    return f"{share} of all prompt tokens since the start were in earlier prompts"


def _drive(server: Running, people: list[Conversation], at_once: int, seed: str) -> Run:
    cpu_s = server.cpu_s()
    outcomes = uvloop.run(converse(server.port, people, at_once, seed))
    return Run(outcomes, server.cpu_s() - cpu_s)


def table(rounds: Rounds) -> str:
    """Return the table of figures and that of ratios."""
    lines = [_row("", FIGURES), "|---|" + "--:|" * len(FIGURES)]
    for name in rounds[0]:
        medians = (
            statistics.median(figure(each[name]) for each in rounds) for figure in FIGURES.values()
        )
        lines.append(_row(name, (f"{value:.4g}" for value in medians)))
    for one, other in (pair for pair in PAIRS if set(pair) <= rounds[0].keys()):
        ratios = (_ratio(rounds, figure, one, other) for figure in FIGURES.values())
        lines.append(_row(f"{one} / {other}", ratios))
    return "\n".join(lines)


def _ratio(rounds: Rounds, figure: Callable[[Run], float], one: str, other: str) -> str:
    pairs = [(figure(each[one]), figure(each[other])) for each in rounds]
    if not all(below for _, below in pairs):
        return "-"
    ratios = [above / below for above, below in pairs]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def _row(name: str, cells: Iterable[str]) -> str:
    return f"| {' | '.join((name, *cells))} |"


@contextmanager
def running(
    model: str, workers: int, cache_blocks: int, names: list[str]
) -> Iterator[dict[str, Running]]:
    """Start the servers of these names and wait until they are ready."""
    options = (
        "--workers",
        str(workers),
        "--block-size",
        str(BLOCK),
        "--max-model-len",
        str(CONTEXT),
    )
    cache = ("--num-gpu-blocks-override", str(cache_blocks))
    with ExitStack() as stack:
        servers = {}
        for name in names:
            router = CONTENDERS[name]
            servers[name] = Running(OURS, model, "--router", *router, *options, *cache)
            stack.callback(servers[name].stop)
            servers[name].wait_ready()
        yield servers


def tokens_per_word(model: str) -> float:
    """Measure the tokens of the words that the workload is made of."""
    tokenizer = Tokenizer.from_file(str(Path(model) / "tokenizer.json"))
    text = workload.words(random.Random(0), 1000)
    return len(tokenizer.encode(text).ids) / 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="tiny", help="tiny, demo or a folder")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--concurrency", type=int, default=8, help="clients at once")
    parser.add_argument("--systems", type=int, default=12, help="system prompts; scales the work")
    parser.add_argument("--cache-ratio", type=float, default=CACHE_RATIO)
    parser.add_argument("--only", default=",".join(BY_DEFAULT), help="names of policies")
    parser.add_argument("--quick", action="store_true", help="two rounds")
    options = parser.parse_args()
    if options.quick:
        options.rounds = 2
    model = str(catalog.resolve(options.model, lambda progress: None).path)
    shared = replace(SHARED, systems=options.systems)
    uniform = replace(UNIFORM, systems=5 * options.systems)
    cache_blocks = round(options.cache_ratio * shared.working_set_tokens / BLOCK / options.workers)
    cache_blocks = max(cache_blocks, CONTEXT // BLOCK + 1)  # vLLM wants room for a whole context
    with running(model, options.workers, cache_blocks, options.only.split(",")) as servers:
        print(
            f"{os.cpu_count()} cores, {options.model}, {options.workers} workers of {cache_blocks}"
            f" blocks, {options.concurrency} clients, {options.rounds} rounds",
            flush=True,
        )
        for title, shape in (("Shared system prompts", shared), ("Nothing shared", uniform)):
            rounds = measure(servers, shape, options, tokens_per_word(model))
            print(f"\n{title}, load {os.getloadavg()[0]:.1f}, {bound(servers)}:\n")
            print(table(rounds), flush=True)


if __name__ == "__main__":
    main()
