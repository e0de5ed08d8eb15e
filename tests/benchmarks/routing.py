"""What KV routing gains: one workload through three policies in turns, on real engines.

    python -m tests.benchmarks.routing [--model tiny] [--workers 2] [--rounds 10] [--quick]
    python -m tests.benchmarks.routing --model demo --systems 4 --concurrency 4 --rounds 3

The tiny model computes a prompt in hardly more time than it takes to pass it on, so its cached
share is what counts; the demo model, hundreds of times larger, shows what that is worth.

The servers run side by side, and only one at a time has anything to do: kv with each of its costs,
least-loaded, round-robin, and round-robin once more for the noise (A/A). In each round each of
them gets the same conversations, which no round before has seen; the order changes from round to
round. An engine's cache holds clearly less than what is said in a round, all engines of a server
a bit more. Then the same with prompts that share nothing, where there is nothing to gain.

Prints Markdown: the figures of each policy (medians over the rounds), and their ratios within
each round as median and range.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import aiohttp
import uvloop
from tokenizers import Tokenizer

from dynamo_cli.models import catalog
from tests.benchmarks import workload
from tests.benchmarks.load import DONE, EVENT, Sample
from tests.benchmarks.servers import OURS, Running
from tests.benchmarks.workload import Conversation, Shape

BLOCK = 32
CACHE_RATIO = 1.2
"""What all engines of a server hold together, of all that is said in a round."""

CONTENDERS = {
    "kv, blocks": ("kv", "--kv-cost", "blocks"),
    "kv, ancestor": ("kv", "--kv-cost", "ancestor"),
    "least-loaded": ("least-loaded",),
    "round-robin": ("round-robin",),
    "round-robin again": ("round-robin",),
}
"""Name -> what follows --router."""

PAIRS = (
    ("kv, blocks", "round-robin"),
    ("kv, blocks", "least-loaded"),
    ("kv, ancestor", "round-robin"),
    ("kv, ancestor", "least-loaded"),
    ("round-robin again", "round-robin"),
)


@dataclass
class Heard(Sample):
    """What came of one workload.

    Attributes:
        cached_tokens: of the prompts, those that the engines found in their caches.
        cpu_s: that all processes of the server took for it.
    """

    prompt_tokens: int = 0
    cached_tokens: int = 0
    cpu_s: float = 0.0


@dataclass
class Talk:
    """A conversation under way."""

    conversation: Conversation
    messages: list[dict[str, str]] = field(default_factory=list)
    said: int = 0

    @property
    def over(self) -> bool:
        return self.said == len(self.conversation.turns)

    async def turn(self, session: aiohttp.ClientSession, heard: Heard) -> None:
        """Says what comes next, and waits for the answer."""
        if not self.messages:
            self.messages.append({"role": "system", "content": self.conversation.system})
        turn = self.conversation.turns[self.said]
        self.messages.append({"role": "user", "content": turn.text})
        answer = await _ask(session, self.messages, turn.answer_tokens, heard)
        self.messages.append({"role": "assistant", "content": answer})
        self.said += 1


async def _ask(
    session: aiohttp.ClientSession, messages: list[dict[str, str]], tokens: int, heard: Heard
) -> str:
    body = {
        "model": "bench",
        "messages": messages,
        "max_tokens": tokens,
        "ignore_eos": True,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    sent = time.perf_counter()
    first_token_at = None
    stream = b""
    async with session.post("/v1/chat/completions", json=body) as response:
        response.raise_for_status()
        async for data in response.content.iter_any():
            stream += data
            # The first event only says who speaks; tokens begin with the second.
            if first_token_at is None and stream.count(EVENT) >= 2:
                first_token_at = time.perf_counter()
    assert first_token_at is not None
    heard.ttft.append(first_token_at - sent)
    return _note(stream, heard)


def _note(stream: bytes, heard: Heard) -> str:
    """Adds what the server counted; returns what the model said."""
    lines = [line for line in stream.split(b"\n\n") if line and line != DONE]
    *chunks, last = (json.loads(line.removeprefix(EVENT)) for line in lines)
    usage = last["usage"]
    heard.requests += 1
    heard.tokens += usage["completion_tokens"]
    heard.prompt_tokens += usage["prompt_tokens"]
    heard.cached_tokens += usage["prompt_tokens_details"]["cached_tokens"]
    return "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)


async def converse(port: int, people: list[Conversation], at_once: int, seed: str) -> Heard:
    """All turns of all conversations by `at_once` clients.

    Who speaks next is left to chance, but it is one of that half who have waited longer: people
    think before they go on.
    """
    heard = Heard()
    dice = random.Random(seed)
    waiting = [Talk(one) for one in people]
    dice.shuffle(waiting)

    async def client(session: aiohttp.ClientSession) -> None:
        while waiting:
            talk = waiting.pop(dice.randrange((len(waiting) + 1) // 2))
            await talk.turn(session, heard)
            if not talk.over:
                waiting.append(talk)

    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
        began = time.perf_counter()
        await asyncio.gather(*(client(session) for _ in range(at_once)))
        heard.wall_s = time.perf_counter() - began
    return heard


FIGURES: dict[str, Callable[[Heard], float]] = {
    "cached prompt tokens, %": lambda heard: 100 * heard.cached_tokens / heard.prompt_tokens,
    "TTFT p50, ms": lambda heard: 1000 * _quantile(heard.ttft, 0.5),
    "TTFT p95, ms": lambda heard: 1000 * _quantile(heard.ttft, 0.95),
    "output tok/s": lambda heard: heard.tokens / heard.wall_s,
    "requests/s": lambda heard: heard.requests / heard.wall_s,
    "CPU ms per request": lambda heard: 1000 * heard.cpu_s / heard.requests,
}

Rounds = list[dict[str, Heard]]
"""By the contender's name, in each round."""


def measure(
    servers: dict[str, Running], shape: Shape, options: argparse.Namespace, per_word: float
) -> Rounds:
    """Every round, after one that warms all of them and is not counted."""
    rounds: Rounds = []
    names = list(servers)
    for number in range(options.rounds + 1):
        seed = f"{shape}, round {number}"
        people = workload.conversations(shape, seed, per_word)
        turn = number % len(names)
        rounds.append(
            {
                name: _drive(servers[name], people, options.concurrency, seed)
                for name in names[turn:] + names[:turn]
            }
        )
    return rounds[1:]


def _drive(server: Running, people: list[Conversation], at_once: int, seed: str) -> Heard:
    cpu_s = server.cpu_s()
    heard = uvloop.run(converse(server.port, people, at_once, seed))
    heard.cpu_s = server.cpu_s() - cpu_s
    return heard


def table(rounds: Rounds) -> str:
    """Figures, then ratios."""
    lines = [_row("", FIGURES), "|---|" + "--:|" * len(FIGURES)]
    for name in CONTENDERS:
        medians = (
            statistics.median(figure(each[name]) for each in rounds) for figure in FIGURES.values()
        )
        lines.append(_row(name, (f"{value:.4g}" for value in medians)))
    for one, other in PAIRS:
        ratios = (_ratio(rounds, figure, one, other) for figure in FIGURES.values())
        lines.append(_row(f"{one} / {other}", ratios))
    return "\n".join(lines)


def _ratio(rounds: Rounds, figure: Callable[[Heard], float], one: str, other: str) -> str:
    pairs = [(figure(each[one]), figure(each[other])) for each in rounds]
    if not all(below for _, below in pairs):
        return "-"
    ratios = [above / below for above, below in pairs]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def _row(name: str, cells: Iterable[str]) -> str:
    return f"| {' | '.join((name, *cells))} |"


def _quantile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


@contextmanager
def running(model: str, workers: int, cache_blocks: int) -> Iterator[dict[str, Running]]:
    """All servers, ready."""
    options = ("--workers", str(workers), "--block-size", str(BLOCK), "--max-model-len", "2048")
    cache = ("--num-gpu-blocks-override", str(cache_blocks))
    with ExitStack() as stack:
        servers = {}
        for name, router in CONTENDERS.items():
            servers[name] = Running(OURS, model, "--router", *router, *options, *cache)
            stack.callback(servers[name].stop)
            servers[name].wait_ready()
        yield servers


def tokens_per_word(model: str) -> float:
    """Of the words that the workload is made of."""
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
    parser.add_argument("--quick", action="store_true", help="two rounds")
    options = parser.parse_args()
    if options.quick:
        options.rounds = 2
    model = str(catalog.resolve(options.model, lambda progress: None).path)
    shared = replace(workload.SHARED, systems=options.systems)
    uniform = replace(workload.UNIFORM, systems=5 * options.systems)
    cache_blocks = round(CACHE_RATIO * shared.working_set_tokens / BLOCK / options.workers)
    with running(model, options.workers, cache_blocks) as servers:
        print(
            f"{os.cpu_count()} cores, {options.model}, {options.workers} workers of {cache_blocks}"
            f" blocks, {options.concurrency} clients, {options.rounds} rounds",
            flush=True,
        )
        for title, shape in (("Shared system prompts", shared), ("Nothing shared", uniform)):
            rounds = measure(servers, shape, options, tokens_per_word(model))
            print(f"\n{title}, load {os.getloadavg()[0]:.1f}:\n\n{table(rounds)}", flush=True)


if __name__ == "__main__":
    main()
