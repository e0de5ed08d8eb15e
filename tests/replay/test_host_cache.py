"""A replay with a host cache: what is found where, what is predicted, and what it brings."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import msgspec
import pytest

from dynamo_cli.config import RouterConfig
from dynamo_cli.engines.mock.state import SimEngine
from dynamo_cli.lab.replay.loop import Replay, Result
from dynamo_cli.lab.replay.peers import PEERS
from dynamo_cli.lab.replay.routers import SERVED, LiveRouter, ReplayRouter
from dynamo_cli.lab.report import summarize
from dynamo_cli.lab.trace.trace import Trace, infinite_hit_ratio
from dynamo_cli.messages.routing import RouteQuery, RoutingDecision
from dynamo_cli.router.state import RouterState
from tests.replay.test_replay import PROFILE, chats, conversations

ENGINE_BYTES = PROFILE.num_blocks * PROFILE.block_size * PROFILE.kv_token_bytes


def replay(trace: Trace, policy: str, times: float, workers: int = 3, **options: Any) -> Result:
    """Replay with a host cache so many times as large as the cache of an engine."""
    factory = (SERVED | PEERS)[policy]
    size = int(times * ENGINE_BYTES)
    return Replay(trace, factory, PROFILE, workers, host_cache_bytes=size, **options).run()


@pytest.mark.parametrize("policy", ["least-loaded", "kv:time", "kv:blocks", "mooncake", "sglang"])
def test_steps_at_once_give_what_steps_one_by_one_give(policy: str) -> None:
    trace = conversations(3, 300)
    results = [replay(trace, policy, 8, leaps=leaps) for leaps in (True, False)]
    first, second = (
        {**asdict(one), "gaps": one.gaps._buckets, "host": None, "written": one.host.written}
        for one in results
        if one.host is not None
    )
    assert first == second
    assert results[0].preemptions > 10
    assert results[0].loaded_tokens > 0
    assert len(results[0].outcomes) == 300
    assert not any(one.error for one in results[0].outcomes)


def test_steps_at_once_end_when_a_slow_load_does() -> None:
    slow = msgspec.structs.replace(PROFILE, load_token_s=100 * PROFILE.load_token_s)
    trace, size = conversations(3, 100), 8 * ENGINE_BYTES
    router = SERVED["least-loaded"]
    first, second = (
        Replay(trace, router, slow, 3, host_cache_bytes=size, leaps=leaps).run()
        for leaps in (True, False)
    )
    assert first.outcomes == second.outcomes
    assert first.loaded_tokens == second.loaded_tokens > 0


def test_a_large_host_cache_makes_up_for_a_router_that_is_blind() -> None:
    trace = chats(count=7, turns=6)
    without, beside = (replay(trace, "round-robin", times) for times in (0, 16))
    ratios = [summarize(one.outcomes, one.gaps).hit_ratio for one in (without, beside)]
    assert ratios[1] == pytest.approx(infinite_hit_ratio(trace))
    assert ratios[0] is not None
    assert ratios[1] > 1.5 * ratios[0]
    assert beside.host is not None
    assert beside.host.evicted == beside.host.invalid == beside.host.blocks.pinned == 0
    assert without.loaded_tokens == 0


def test_loaded_tokens_count_as_cached_and_take_less_time() -> None:
    trace = chats(count=7, turns=6)
    without, beside = (replay(trace, "round-robin", times) for times in (0, 16))
    own = sum(one.cached_tokens or 0 for one in beside.outcomes) - beside.loaded_tokens
    assert own > 0
    times = [summarize(one.outcomes, one.gaps).ttft_ms for one in (without, beside)]
    assert times[0] is not None and times[1] is not None
    assert times[1].mean < 0.9 * times[0].mean


class _Watched(LiveRouter):
    """Keeps all decisions."""

    def __init__(self, state: RouterState) -> None:
        super().__init__(state)
        self.decisions: dict[str, RoutingDecision] = {}

    def query(self, message: RouteQuery, now_ns: int) -> RoutingDecision | None:
        decision = super().query(message, now_ns)
        if decision is not None:
            self.decisions[decision.request_id] = decision
        return decision


def test_what_the_router_expects_is_what_engines_find_and_load() -> None:
    """Requests come one after another, so nothing changes between decision and lookup."""
    trace = chats(count=9, turns=6)
    routers: list[_Watched] = []

    def factory(engines: Any, seed: int) -> ReplayRouter:
        routers.append(_Watched(RouterState(RouterConfig("kv"))))
        return routers[0]

    small = msgspec.structs.replace(PROFILE, num_blocks=30)
    result = Replay(trace, factory, small, 3, host_cache_bytes=16 * ENGINE_BYTES).run()
    (router,) = routers
    for place, outcome in enumerate(result.outcomes):
        decision = router.decisions[str(place)]
        assert decision.predicted_tokens == outcome.cached_tokens, place
    state = router.state
    assert state.predicted_tokens == state.measured_tokens > 0
    assert state.over_predicted_requests == 0
    assert result.loaded_tokens > 0
    measured_s = state.loading.token_s(0, state.ledger.estimator.prices)
    assert measured_s == pytest.approx(PROFILE.load_token_s, rel=1.0)


def test_the_router_knows_what_the_host_cache_holds() -> None:
    states: list[RouterState] = []

    def factory(engines: list[SimEngine], seed: int) -> ReplayRouter:
        states.append(RouterState(RouterConfig("kv")))
        return LiveRouter(states[0])

    trace = conversations(5, 300)
    result = Replay(trace, factory, PROFILE, 3, host_cache_bytes=4 * ENGINE_BYTES).run()
    assert result.host is not None
    assert result.host.evicted > 0
    index = states[0].host_cache.index
    held = result.host.blocks.holdings.all()
    assert index.blocks[0] == len(held) > 0
    assert all(index.holds(0, block) for block in held)
