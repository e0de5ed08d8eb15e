"""Routing rules of other systems, as they publish them, for comparison. Pure.

Two more are among the policies that can be served: ``kv:blocks`` is the rule of NVIDIA Dynamo 1.x,
``kv:shares`` that of the first Dynamo. Every rule here sees the load of the ledger, which counts
from the moment of a decision, and the caches as the KV events report them: data that is at least as
good as what those systems have themselves.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from dynamo_cli.config import BLOCKS, KV_POLICY, RouterConfig
from dynamo_cli.engines.mock.block_pool import BlockPool
from dynamo_cli.engines.mock.state import SimEngine
from dynamo_cli.kv import hashes
from dynamo_cli.lab.replay.routers import PROCESSOR, Factory, LiveRouter
from dynamo_cli.messages.host_cache import HostCopies
from dynamo_cli.messages.request import EngineReady
from dynamo_cli.messages.routing import (
    Candidate,
    FirstToken,
    KvEvents,
    RequestEnd,
    RouteQuery,
    RoutingDecision,
)
from dynamo_cli.messages.telemetry import WorkerStats
from dynamo_cli.router.ledger import Entry, Ledger
from dynamo_cli.router.policies import Choice, Policy, Request, WorkerLoad
from dynamo_cli.router.policies.timed import LOAD_MS, time_cost
from dynamo_cli.router.state import RouterState
from dynamo_cli.router.time_estimator import pairs
from dynamo_cli.topology import Role
from dynamo_cli.units import SECOND_NS


def choose_lowest(loads: Sequence[WorkerLoad], costs: Sequence[float]) -> Choice:
    """Choose the lowest cost; among equals the least recently used worker."""
    order = sorted(range(len(loads)), key=lambda at: (costs[at], loads[at].last_used))
    candidates = [
        Candidate(load.worker, cost, load.overlap_blocks, {})
        for load, cost in zip(loads, costs, strict=True)
    ]
    return Choice(loads[order[0]].worker, candidates)


def data_parallel(request: Request, loads: Sequence[WorkerLoad]) -> Choice:
    """The fewest requests, where a waiting one counts up to four: vLLM's data-parallel balance.

    ``DPLBAsyncMPClient.get_core_engine_for_request`` in vllm/v1/engine/core_client.py (0.32): a
    waiting request counts as one while at most half of the engine's cache is in use, and up to
    three more as that share grows to all of it. There, counts are up to 100 ms old, except for what
    the client itself has sent, and a request waits until its first step, here until its first
    token.
    """
    return choose_lowest(loads, [_balance(load) for load in loads])


def _balance(load: WorkerLoad) -> float:
    used = min(load.decode_blocks / load.num_blocks, 1.0) if load.num_blocks else 0.0
    return load.active_requests + load.waiting_requests * 6.0 * max(0.0, used - 0.5)


def first_token_only(request: Request, loads: Sequence[WorkerLoad]) -> Choice:
    """Choose the earliest first token for this request: Mooncake's conductor.

    Algorithm 1 of Qin et al., "Mooncake: Trading More Storage for Less Computation" (FAST'25),
    without its transfers of caches between workers. The times are those of ``kv:time``, of whose
    cost this is a part.
    """
    terms = time_cost(request, loads, 1.0)
    parts = ("wait_ms", LOAD_MS, "prefill_ms")
    return choose_lowest(loads, [sum(each.get(part, 0.0) for part in parts) for each in terms])


@dataclass(slots=True)
class CacheAware:
    """SGLang's ``cache_aware``, which vllm-router has too.

    sgl-router/src/policies/cache_aware.rs with its defaults. If the busiest worker has more than
    `IMBALANCE` requests more than the idlest one, and more than `RATIO` times as many, the worker
    with the fewest requests wins. Otherwise the worker wins that was sent the longest prefix of
    this prompt, if that is more than `THRESHOLD` of it; else the worker with the smallest tree,
    which was sent the least different text. The rule knows which text it sent where, but not what
    is cached. Here the trees consist of blocks instead of characters.

    Attributes:
        sent: blocks of all prompts that each worker was given.
    """

    IMBALANCE: ClassVar = 64
    RATIO: ClassVar = 1.5
    THRESHOLD: ClassVar = 0.3

    sent: dict[int, set[int]] = field(default_factory=dict)

    def __call__(self, request: Request, loads: Sequence[WorkerLoad]) -> Choice:
        choice = self._choose(request, loads)
        self.sent.setdefault(choice.worker, set()).update(request.blocks)
        return choice

    def _choose(self, request: Request, loads: Sequence[WorkerLoad]) -> Choice:
        active = [load.active_requests for load in loads]
        if max(active) - min(active) > self.IMBALANCE and max(active) > self.RATIO * min(active):
            return choose_lowest(loads, active)
        matches = [self._match(request.blocks, load.worker) for load in loads]
        if max(matches) * request.block_size > self.THRESHOLD * request.prompt_tokens:
            return choose_lowest(loads, [-match for match in matches])
        return choose_lowest(loads, [len(self.sent.get(load.worker, ())) for load in loads])

    def _match(self, prompt: Sequence[int], worker: int) -> int:
        """Number of leading blocks of the prompt that the worker was sent before."""
        sent = self.sent.get(worker, set())
        return next((depth for depth, block in enumerate(prompt) if block not in sent), len(prompt))


class Pooled:
    """A bound for routers: all workers share one cache, and the router knows it.

    Every worker finds what any of them has computed, so that only the load decides: the earliest
    start, and the fewest streams beside it. No router can find more in caches, unless it evicts
    better. If memory is short its times mean little, because the engines evict each other's blocks.
    """

    def __init__(self, engines: Sequence[SimEngine]) -> None:
        self._cache = BlockPool(sum(engine.blocks.usable for engine in engines) + 1)
        for engine in engines:
            engine.share(self._cache)
        self._ledger = Ledger()
        self._used = itertools.count(1)

    def ready(self, message: EngineReady) -> None:
        """As in `routers.ReplayRouter`."""
        self._ledger.worker_up(message.worker, num_blocks=0, max_active=0)
        self._block_size = message.block_size

    def query(self, message: RouteQuery, now_ns: int) -> RoutingDecision:
        """As in `routers.ReplayRouter`; a worker is never full."""
        prices, books = self._ledger.estimator.prices, self._ledger.books

        def cost(worker: int) -> tuple[float, int]:
            book = books[worker]
            decode_slowdown_s = prices.decode_slowdown_s * book.active_requests
            return book.wait_s(0, prices, now_ns) + decode_slowdown_s, book.last_used

        worker = min(books, key=cost)
        books[worker].last_used = next(self._used)
        self._reserve(message, worker, now_ns)
        return decided(message, worker, self._block_size, now_ns)

    def _reserve(self, message: RouteQuery, worker: int, now_ns: int) -> None:
        size, tokens = self._block_size, message.prompt_tokens
        cached = size * len(self._cache.find(hashes.unpack(message.hashes), (tokens - 1) // size))
        entry = Entry(
            processor=PROCESSOR,
            worker=worker,
            prefill_blocks=0,
            decode_blocks=0,
            full_blocks=0,
            prompt_tokens=tokens,
            predicted_tokens=cached,
            placed_ns=now_ns,
            alive_ns=now_ns,
            prefill_tokens=tokens - cached,
            prefill_pairs=pairs(tokens - cached, cached),
        )
        self._ledger.reserve(message.request_id, entry)

    def released(self, now_ns: int) -> list[RoutingDecision]:
        """As in `routers.ReplayRouter`; no query ever waits."""
        return []

    def events(self, message: KvEvents, now_ns: int, role: Role = Role.WORKER) -> None:
        """Ignore the events, because the shared cache can be looked into."""

    def copied(self, message: HostCopies) -> None:
        """Ignore the copies, which the shared cache makes few."""

    def stats(self, message: WorkerStats) -> None:
        """As in `routers.ReplayRouter`."""
        self._ledger.report(message)

    def first_token(self, message: FirstToken, now_ns: int) -> None:
        """As in `routers.ReplayRouter`."""
        entry = self._ledger.first_token(message.request_id, now_ns)
        if entry is not None:
            took_s = entry.prefill_ns / SECOND_NS
            self._ledger.estimator.prefilled(entry.prompt_tokens, message.cached_tokens, took_s)

    def end(self, message: RequestEnd) -> None:
        """As in `routers.ReplayRouter`."""
        self._ledger.end(message.request_id)


def decided(message: RouteQuery, worker: int, block_size: int, now_ns: int) -> RoutingDecision:
    """Make a decision without costs or reasons."""
    return RoutingDecision(
        request_id=message.request_id,
        api_id=message.api_id,
        worker=worker,
        policy="",
        reason="",
        prompt_tokens=message.prompt_tokens,
        required_blocks=0,
        overlap_blocks=0,
        block_size=block_size,
        candidates=[],
        margin=0.0,
        waited_us=0.0,
        decision_us=0.0,
        decided_ns=now_ns,
        engine_order=message.priority,
    )


def _peer(policy: Callable[[], Policy]) -> Factory:
    """Make a router that decides by this rule. It has the same data as the router that serves, and
    engines take requests in the order of their arrival."""
    config = RouterConfig(KV_POLICY, kv_cost=BLOCKS)
    return lambda engines, seed: LiveRouter(RouterState(config, policy()))


PEERS: dict[str, Factory] = {
    "vllm-dp": _peer(lambda: data_parallel),
    "sglang": _peer(CacheAware),
    "mooncake": _peer(lambda: first_token_only),
    "pooled": lambda engines, seed: Pooled(engines),
}
"""Factories by the name that ``--policy`` takes, in addition to `routers.SERVED`."""

BOUNDS = ("pooled",)
"""Those that are no rule, but show how much any rule could find in caches."""
