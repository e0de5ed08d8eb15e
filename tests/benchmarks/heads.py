"""What several routers make of one another's load, and what a choice among many workers loses.

    python -m tests.benchmarks.heads several [--requests N]
    python -m tests.benchmarks.heads many [--workers 128] [--requests N]

Several heads behind a balancer can share their workers or have their own. *Shared*: each head has
a router that gets the cache events and reports of all workers, but knows only its own decisions.
*Own*: each head has its part of the workers. The balancer sends each conversation to one head, or
each request to any. The engines are simulated, so that the figures are the same on every machine.
`many` compares the router of many workers, which compares some, with one that compares all.

Prints Markdown.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec

from dynamo_cli.config import KV_POLICY
from dynamo_cli.engines.mock import profile
from dynamo_cli.engines.mock.state import SimEngine
from dynamo_cli.kv import hashes
from dynamo_cli.lab.replay.loop import Replay
from dynamo_cli.lab.replay.routers import SERVED, Factory, ReplayRouter
from dynamo_cli.lab.report import Slo, Summary, summarize
from dynamo_cli.messages.host_cache import HostCopies
from dynamo_cli.messages.request import EngineReady
from dynamo_cli.messages.routing import (
    FirstToken,
    KvEvents,
    RequestEnd,
    RouteQuery,
    RoutingDecision,
)
from dynamo_cli.messages.telemetry import WorkerStats
from dynamo_cli.router import shortlist
from dynamo_cli.topology import Role
from tests.benchmarks import traffic

WORKERS = 16
CACHE_TOKENS = 256_000
LOADS = {
    "chats over 4 system prompts": (6.0, 1500),
    "agents that loop": (5.0, 4000),
    "questions about documents": (8.0, None),
}
"""Speed of each traffic for `WORKERS` workers, about three quarters of the most that they can
serve, and the tokens of its system prompts; None: it has no conversations."""

Balancer = Callable[[RouteQuery], int]
"""Chooses a head."""


class Heads:
    """Several routers.

    Args:
        routers: one for each head.
        balancer: chooses the head of a request.
        own: whether each head has its own part of the workers.
    """

    def __init__(self, routers: list[ReplayRouter], balancer: Balancer, *, own: bool) -> None:
        self._routers, self._balancer, self._own = routers, balancer, own
        self._head_of: dict[str, ReplayRouter] = {}

    def _of_worker(self, worker: int) -> list[ReplayRouter]:
        return [self._routers[worker % len(self._routers)]] if self._own else self._routers

    def ready(self, message: EngineReady) -> None:
        for router in self._of_worker(message.worker):
            router.ready(message)

    def query(self, message: RouteQuery, now_ns: int) -> RoutingDecision | None:
        router = self._head_of[message.request_id] = self._routers[self._balancer(message)]
        return router.query(message, now_ns)

    def released(self, now_ns: int) -> list[RoutingDecision]:
        return [decision for router in self._routers for decision in router.released(now_ns)]

    def events(self, message: KvEvents, now_ns: int, role: Role = Role.WORKER) -> None:
        for router in self._of_worker(message.worker):
            router.events(message, now_ns, role)

    def copied(self, message: HostCopies) -> None:
        for router in self._of_worker(message.worker):
            router.copied(message)

    def stats(self, message: WorkerStats) -> None:
        for router in self._of_worker(message.worker):
            router.stats(message)

    def first_token(self, message: FirstToken, now_ns: int) -> None:
        self._head_of[message.request_id].first_token(message, now_ns)

    def end(self, message: RequestEnd) -> None:
        self._head_of.pop(message.request_id).end(message)


def heads(count: int, system_tokens: int | None, *, own: bool, sticky: bool) -> Factory:
    """Make so many heads.

    Args:
        count: how many.
        system_tokens: length of a system prompt; the block behind it names a conversation.
        own: whether each has its own workers.
        sticky: whether the balancer keeps a conversation on a head.
    """

    def build(engines: Sequence[SimEngine], seed: int) -> ReplayRouter:
        dice = random.Random(seed)

        def balancer(query: RouteQuery) -> int:
            prompt = hashes.unpack(query.hashes)
            place = (system_tokens or 0) // traffic.BLOCK
            if sticky and len(prompt) > place:
                return random.Random(prompt[place]).randrange(count)
            return dice.randrange(count)

        routers = [SERVED[KV_POLICY](engines, seed + number) for number in range(count)]
        return Heads(routers, balancer, own=own)

    return build


def replayed(trace: Any, factory: Factory, workers: int, speed: float) -> Summary:
    """Replay traffic through these routers."""
    engine = msgspec.structs.replace(
        profile.load("gpu-8b"),
        block_size=trace.block_size,
        num_blocks=CACHE_TOKENS // trace.block_size,
    )
    result = Replay(trace, factory, engine, workers, speed=speed).run()
    return summarize(result.outcomes, result.gaps, Slo(), more={})


def row(name: str, summary: Summary, first: Summary) -> str:
    """One line: figures, and ratios to those of the first."""
    mean, most = summary.ttft_ms, first.ttft_ms
    assert mean is not None
    assert most is not None
    return (
        f"| {name} | {100 * (summary.hit_ratio or 0):.1f} | {mean.mean:.0f} "
        f"| {mean.mean / most.mean:.2f} | {mean.p99:.0f} | {mean.p99 / most.p99:.2f} |"
    )


TITLE = (
    "| | cached, % | TTFT mean, ms | / first | TTFT p99, ms | / first |\n|---|--:|--:|--:|--:|--:|"
)


def several(requests: int) -> None:
    for name, (speed, system_tokens) in LOADS.items():
        trace = traffic.make(name, requests)
        print(f"\n{name}, {WORKERS} workers, speed {speed:g}, {requests} requests\n\n{TITLE}")
        first = replayed(trace, SERVED[KV_POLICY], WORKERS, speed)
        print(row("one head", first, first), flush=True)
        for count in (2, 4):
            for own, sticky in ((False, False), (False, True), (True, False), (True, True)):
                if sticky and system_tokens is None:
                    continue
                factory = heads(count, system_tokens, own=own, sticky=sticky)
                found = replayed(trace, factory, WORKERS, speed)
                whose = "own workers" if own else "shared workers"
                what = "conversations" if sticky else "requests"
                print(row(f"{count} heads, {whose}, {what} balanced", found, first), flush=True)


@contextmanager
def comparing(most: int) -> Any:
    """Let the router compare all workers up to this number."""
    before, shortlist.MOST_COMPARED = shortlist.MOST_COMPARED, most
    yield
    shortlist.MOST_COMPARED = before


def many(workers: int, requests: int) -> None:
    for name, (speed, _) in LOADS.items():
        trace = traffic.make(name, requests)
        faster = speed * workers / WORKERS
        print(f"\n{name}, {workers} workers, speed {faster:g}, {requests} requests\n\n{TITLE}")
        with comparing(workers):
            everybody = replayed(trace, SERVED[KV_POLICY], workers, faster)
        print(row("all are compared", everybody, everybody), flush=True)
        print(row("some", replayed(trace, SERVED[KV_POLICY], workers, faster), everybody))


def main() -> None:
    parser = argparse.ArgumentParser(description="What several routers make of each other's load.")
    parser.add_argument("what", choices=("several", "many"))
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=128)
    options = parser.parse_args()
    if options.what == "many":
        many(options.workers, options.requests)
    else:
        several(options.requests)


if __name__ == "__main__":
    main()
