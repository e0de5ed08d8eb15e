"""The router as the replay meets it: the very state that serves, or a peer's rule. Pure."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Protocol

from dynamo_cli.config import KV_COSTS, KV_POLICY, ROUTER_POLICIES, RouterConfig
from dynamo_cli.engines.mock.state import SimEngine
from dynamo_cli.messages.request import EngineReady
from dynamo_cli.messages.routing import (
    FirstToken,
    KvEvents,
    RequestEnd,
    RouteQuery,
    RoutingDecision,
)
from dynamo_cli.messages.telemetry import WorkerStats
from dynamo_cli.router.policies import policy_of
from dynamo_cli.router.state import RouterState

PROCESSOR = 0
"""All requests come from one processor."""


class Router(Protocol):
    """What is sent to the router process, and its answers; times in ns."""

    def ready(self, message: EngineReady) -> None:
        """A worker is there."""

    def query(self, message: RouteQuery, now_ns: int) -> RoutingDecision | None:
        """The worker for a request; None: later, from `released`."""

    def released(self, now_ns: int) -> list[RoutingDecision]:
        """Decisions on queries that had to wait."""

    def events(self, message: KvEvents, now_ns: int, *, prefill: bool = False) -> None:
        """What a step changed in a worker's cache, or in a prefill worker's."""

    def stats(self, message: WorkerStats) -> None:
        """The load of a worker."""

    def first_token(self, message: FirstToken, now_ns: int) -> None:
        """A request's prefill is over."""

    def end(self, message: RequestEnd) -> None:
        """A request is over."""


Factory = Callable[[Sequence[SimEngine], int], Router]
"""A router for these engines, with a seed for its dice. Only a bound may look into engines."""


class Live:
    """`RouterState`, driven as `router.process` does."""

    def __init__(self, state: RouterState) -> None:
        self.state = state

    def ready(self, message: EngineReady) -> None:
        self.state.worker_up(message)

    def query(self, message: RouteQuery, now_ns: int) -> RoutingDecision | None:
        decision = self.state.decide(PROCESSOR, message, now_ns)
        self.state.remember(message)
        return decision

    def released(self, now_ns: int) -> list[RoutingDecision]:
        if not self.state.waiting_requests:
            return []
        return [decision for _, decision in self.state.released(now_ns)]

    def events(self, message: KvEvents, now_ns: int, *, prefill: bool = False) -> None:
        caches = self.state.prefill_caches if prefill else self.state.caches
        caches.apply(message, now_ns)

    def stats(self, message: WorkerStats) -> None:
        self.state.ledger.report(message)

    def first_token(self, message: FirstToken, now_ns: int) -> None:
        self.state.first_token(message.request_id, message.cached_tokens, now_ns)

    def end(self, message: RequestEnd) -> None:
        self.state.end(message.request_id)


def live(config: RouterConfig) -> Factory:
    """A router of this configuration."""

    def build(engines: Sequence[SimEngine], seed: int) -> Router:
        return Live(RouterState(config, policy_of(config, random.Random(seed))))

    return build


SERVED: dict[str, Factory] = {
    **{policy: live(RouterConfig(policy)) for policy in ROUTER_POLICIES},
    **{f"{KV_POLICY}:{cost}": live(RouterConfig(KV_POLICY, kv_cost=cost)) for cost in KV_COSTS},
}
"""By name: ``--router`` as it is served, and kv with each ``--kv-cost``."""
