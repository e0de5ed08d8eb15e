"""The order in which engines take waiting requests: the one that is due first."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dynamo_cli.config import KV_COSTS, TIME, RouterConfig
from dynamo_cli.messages.routing import RoutingDecision
from dynamo_cli.router.engine_order import ERA_MS, EngineOrder
from dynamo_cli.router.state import RouterState
from dynamo_cli.units import MS_NS, SECOND_NS

from .test_state import holding, query, ready

YEARS_NS = 50 * 365 * 86_400 * SECOND_NS
PRIORITIES = st.integers(-(10**9) + 1, 10**9 - 1)
TIMES = st.integers(0, ERA_MS // 2 * MS_NS)
UPTIMES = st.integers(0, YEARS_NS)
WORK = st.floats(0, 1e5)


def place(
    priority: int, arrival_ns: int, prefill_s: float, order: EngineOrder | None = None
) -> int:
    return (order or EngineOrder()).due(priority, arrival_ns, prefill_s, lambda: False)


@given(st.integers(-(1 << 63), (1 << 63) - 1), st.integers(0, YEARS_NS), st.floats(0, 1e12))
def test_an_engine_order_is_a_number_of_64_bits(
    priority: int, arrival_ns: int, prefill_s: float
) -> None:
    assert -(1 << 63) <= place(priority, arrival_ns, prefill_s) < 1 << 63


@given(UPTIMES, PRIORITIES, TIMES, TIMES, WORK, WORK)
def test_the_more_urgent_comes_first_whatever_is_due(
    uptime_ns: int, priority: int, first_ns: int, second_ns: int, first_s: float, second_s: float
) -> None:
    order = EngineOrder()
    second = place(priority, uptime_ns + second_ns, second_s, order)
    assert place(priority - 1, uptime_ns + first_ns, first_s, order) < second


@given(UPTIMES, TIMES, WORK, st.integers(2 * 10**6, 10**5 * SECOND_NS), WORK)
def test_nobody_is_overtaken_by_those_who_come_after_the_time_of_its_own_work(
    uptime_ns: int, arrival_ns: int, work_s: float, later_ns: int, other_s: float
) -> None:
    order, arrival_ns = EngineOrder(), uptime_ns + arrival_ns
    place(0, uptime_ns, 0, order)
    other_ns = arrival_ns + round(work_s * SECOND_NS) + later_ns
    assert place(0, arrival_ns, work_s, order) < place(0, other_ns, other_s, order)


def test_an_era_ends_when_nobody_waits() -> None:
    order = EngineOrder()
    first = place(0, (ERA_MS - 1) * MS_NS, 0, order)
    same = place(0, (ERA_MS + 1) * MS_NS, 0, order)
    assert same - first == 2
    assert order.due(0, (ERA_MS + 2) * MS_NS, 0, lambda: True) == 2
    assert place(0, (ERA_MS + 3) * MS_NS, 0, order) == 3


def test_a_router_keeps_the_order_of_those_that_wait_and_then_begins_anew() -> None:
    state = router(TIME)
    before = decided(state, "before", 1, now_ns=(ERA_MS - 1) * MS_NS)
    beside = decided(state, "beside", 2, now_ns=(ERA_MS + 1) * MS_NS)
    assert before.engine_order < beside.engine_order
    for name in ("before", "beside"):
        state.first_token(name, 0, (ERA_MS + 2) * MS_NS)
    after = decided(state, "after", 3, now_ns=(ERA_MS + 3) * MS_NS)
    later = decided(state, "later", 4, now_ns=(ERA_MS + 9) * MS_NS)
    assert after.engine_order < later.engine_order < before.engine_order


def decided(router: RouterState, name: str, *blocks: int, now_ns: int = 0) -> RoutingDecision:
    decision = router.decide(0, query(name, *blocks, priority=3), now_ns)
    assert decision is not None
    return decision


def router(cost: str) -> RouterState:
    fresh = RouterState(RouterConfig("kv", kv_cost=cost))
    fresh.worker_up(ready(0))
    return fresh


def test_kv_lets_the_short_and_the_cached_go_before_a_long_prompt() -> None:
    state = router(TIME)
    holding(state, 0, *range(1, 100))
    long = decided(state, "long", *range(200, 2_200))
    short = decided(state, "short", 5000, now_ns=1_000_000)
    cached = decided(state, "cached", *range(1, 100), now_ns=1_000_000)
    late = decided(state, "late", 5001, now_ns=10 * SECOND_NS)
    assert max(short.engine_order, cached.engine_order) < long.engine_order < late.engine_order


def test_others_let_engines_take_requests_as_they_come() -> None:
    for config in [RouterConfig("kv", kv_cost=cost) for cost in KV_COSTS if cost != TIME] + [
        RouterConfig(policy) for policy in ("least-loaded", "round-robin", "random")
    ]:
        state = RouterState(config)
        state.worker_up(ready(0))
        assert {
            decided(state, "a", 1).engine_order,
            decided(state, "b", *range(90)).engine_order,
        } == {3}
