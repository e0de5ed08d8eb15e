"""The routers of a replay: `RouterState`, which also serves, or the rule of another system.
Pure."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Protocol

from dynamo_cli.config import KV_COSTS, KV_POLICY, ROUTER_POLICIES, RouterConfig
from dynamo_cli.engines.mock.state import SimEngine
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
from dynamo_cli.router.policies import policy_of
from dynamo_cli.router.state import RouterState
from dynamo_cli.topology import Role

PROCESSOR = 0
"""Index of the only processor."""


class ReplayRouter(Protocol):
    """Takes the messages of the router process, and returns its answers. Times in nanoseconds."""

    def ready(self, message: EngineReady) -> None:
        """Note that a worker is ready."""

    def query(self, message: RouteQuery, now_ns: int) -> RoutingDecision | None:
        """Choose a worker for a request; None if `released` returns the decision later."""

    def released(self, now_ns: int) -> list[RoutingDecision]:
        """Return decisions on queries that had to wait."""

    def events(self, message: KvEvents, now_ns: int, role: Role = Role.WORKER) -> None:
        """Take the changes of the cache of a worker, a prefill worker or the host cache."""

    def copied(self, message: HostCopies) -> None:
        """Take the report of a worker on its copies from and to the host cache."""

    def stats(self, message: WorkerStats) -> None:
        """Take the load report of a worker."""

    def first_token(self, message: FirstToken, now_ns: int) -> None:
        """Note the first token of a request."""

    def end(self, message: RequestEnd) -> None:
        """Note the end of a request."""


Factory = Callable[[Sequence[SimEngine], int], ReplayRouter]
"""Makes a router for these engines, with a seed for its random choices. Only a router that is a
bound may look into the engines."""


class LiveRouter:
    """`RouterState`, driven in the same way as by `router.process`."""

    def __init__(self, state: RouterState) -> None:
        self.state = state

    def ready(self, message: EngineReady) -> None:
        """As in `ReplayRouter`."""
        self.state.worker_up(message)

    def query(self, message: RouteQuery, now_ns: int) -> RoutingDecision | None:
        """As in `ReplayRouter`."""
        decision = self.state.decide(PROCESSOR, message, now_ns)
        self.state.remember(message)
        return decision

    def released(self, now_ns: int) -> list[RoutingDecision]:
        """As in `ReplayRouter`."""
        if not self.state.waiting_requests:
            return []
        return [decision for _, decision in self.state.released(now_ns)]

    def events(self, message: KvEvents, now_ns: int, role: Role = Role.WORKER) -> None:
        """As in `ReplayRouter`."""
        self.state.caches_of(role).apply(message, now_ns)

    def copied(self, message: HostCopies) -> None:
        """As in `ReplayRouter`."""
        self.state.loading.copied(message)

    def stats(self, message: WorkerStats) -> None:
        """As in `ReplayRouter`."""
        self.state.ledger.report(message)

    def first_token(self, message: FirstToken, now_ns: int) -> None:
        """As in `ReplayRouter`."""
        self.state.first_token(message.request_id, message.cached_tokens, now_ns)

    def end(self, message: RequestEnd) -> None:
        """As in `ReplayRouter`."""
        self.state.end(message.request_id)


def live(config: RouterConfig) -> Factory:
    """Return a factory of routers with this configuration."""

    def build(engines: Sequence[SimEngine], seed: int) -> ReplayRouter:
        return LiveRouter(RouterState(config, policy_of(config, random.Random(seed))))

    return build


SERVED: dict[str, Factory] = {
    **{policy: live(RouterConfig(policy)) for policy in ROUTER_POLICIES},
    **{f"{KV_POLICY}:{cost}": live(RouterConfig(KV_POLICY, kv_cost=cost)) for cost in KV_COSTS},
}
"""Factories by name: each value of ``--router``, and kv with each ``--kv-cost``."""
