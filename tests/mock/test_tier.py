"""Simulated engines with a host cache: the real state of it, and messages that take no time."""

from __future__ import annotations

import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamo_cli.engines.mock.request import SimRequest, StepResult
from dynamo_cli.engines.mock.state import SimEngine
from dynamo_cli.lab.replay.host_cache import ReplayHostCache
from tests.mock import test_state
from tests.mock.test_state import MS

PROFILE = msgspec.structs.replace(
    test_state.PROFILE,
    load_s=0.001,
    load_token_s=0.0005,
    decode_context_s=0.0,
    num_blocks=33,
    max_num_batched_tokens=16,
    kv_token_bytes=1,
)


def engines(
    count: int = 2, slots: int = 1000, **changes: object
) -> tuple[ReplayHostCache, list[SimEngine]]:
    profile = msgspec.structs.replace(PROFILE, **changes)
    host = ReplayHostCache(slots * profile.block_size * profile.kv_token_bytes, profile, count)
    host.lend()
    return host, [SimEngine(profile, tier=tier) for tier in host.tiers]


def request(name: str, prompt: int, output: int = 1, start: int = 100) -> SimRequest:
    hashes = list(range(start, start + prompt // PROFILE.block_size))
    seed = random.Random(name).randrange(1 << 60)
    return SimRequest(name, prompt, output, hashes, lambda _, block: seed + block)


def step(host: ReplayHostCache, sim: SimEngine, now_ps: int) -> StepResult:
    result = sim.step(now_ps)
    assert sim.tier is not None
    sim.tier.store()
    host.lend()
    return result


def run(host: ReplayHostCache, sim: SimEngine, now_ps: int = 0) -> int:
    """Step until nothing is left to do; return the time then."""
    while sim.has_work():
        result = step(host, sim, now_ps)
        now_ps += result.duration_ps
        if result.idle:
            assert sim.tier is not None
            assert sim.tier.next_ps is not None, "nobody would ever wake it"
            assert sim.tier.next_ps > now_ps
            now_ps = sim.tier.next_ps
    return now_ps


def test_what_one_engine_has_computed_another_one_loads() -> None:
    host, (first, second) = engines()
    first.add(request("a", 32))
    run(host, first)
    again = request("b", 32)
    second.add(again)
    result = step(host, second, 5 * MS)
    assert (result.idle, result.duration_ps, second.num_running) == (True, 0, 0)
    assert second.tier is not None
    assert second.tier.next_ps == (5 + 1 + 14) * MS  # the last block is computed
    assert second.blocks.free == second.blocks.usable - 8, "there is room for it already"
    result = step(host, second, second.tier.next_ps)
    assert result.duration_ps == (10 + 4) * MS
    assert [one.request_id for one in result.finished] == ["b"]
    assert (again.cached_tokens, again.loaded_tokens) == (28, 28)
    assert (second.totals.hits, second.totals.loaded) == (0, 28)
    assert host.cache.blocks.pinned == 0
    copies = second.tier.client.copies(1, prefill=False)
    assert (copies.loaded_blocks, copies.load_s) == (7, pytest.approx(0.015))


def test_only_what_the_engine_lacks_is_loaded() -> None:
    host, (first, second) = engines()
    first.add(request("a", 48))
    run(host, first)
    second.add(request("half", 20))
    run(host, second)
    whole = request("whole", 48)
    second.add(whole)
    run(host, second)
    assert (whole.cached_tokens, whole.loaded_tokens) == (44, 24)


def test_others_go_on_while_a_prompt_is_loaded() -> None:
    host, (first, second) = engines()
    first.add(request("a", 80))
    run(host, first)
    second.add(request("loads", 80))
    second.add(request("runs", 4, 3, start=900))
    assert not step(host, second, 0).idle
    assert (second.num_running, len(second.waiting)) == (1, 0)
    result = step(host, second, 30 * MS)
    assert result.decoded == 1, "the load takes 39 ms"
    result = step(host, second, 40 * MS)
    assert {one.request_id for one in result.finished} == {"loads", "runs"}


def test_what_is_stored_once_is_not_stored_again() -> None:
    host, sims = engines()
    for name, sim in zip("ab", sims, strict=True):
        sim.add(request(name, 32))
        run(host, sim)
    assert host.cache.written == 8
    sims[0].add(request("c", 8, start=500))
    sims[1].add(request("d", 8, start=500))
    for sim in sims:
        sim.step()  # both ask before the other one has stored anything
    for sim in sims:
        assert sim.tier is not None
        sim.tier.store()
    assert (host.cache.written, host.cache.duplicates) == (12, 2)


def test_what_the_host_cache_has_lost_is_stored_again_from_the_engine() -> None:
    host, (sim,) = engines(1, slots=400)
    sim.add(request("a", 32))
    run(host, sim)
    while (slot := host.cache.blocks.evict()) is not None:
        host.cache._free.append(slot)
    sim.add(request("b", 36))
    run(host, sim)
    assert len(host.cache.blocks) == 9


def test_short_prompts_are_neither_loaded_nor_stored() -> None:
    host, (first, second) = engines()
    for tier in host.tiers:
        tier.min_tokens = 40
    for sim in (first, second):
        sim.add(request("short", 39))
        run(host, sim)
        sim.add(request("long", 40))
        run(host, sim)
    assert host.cache.written == 10
    assert second.totals.loaded == 0, "it had most of it in its own cache"


def test_an_aborted_load_frees_blocks_and_slots() -> None:
    host, (first, second) = engines()
    first.add(request("a", 32))
    run(host, first)
    second.add(request("b", 32))
    step(host, second, 0)
    assert host.cache.blocks.pinned == 8
    second.abort("b")
    assert (host.cache.blocks.pinned, second.blocks.free) == (0, second.blocks.usable)
    assert not second.has_work()


def test_loads_that_take_all_room_block_nobody_for_ever() -> None:
    host, (first, second) = engines(num_blocks=31, max_num_batched_tokens=64)
    first.add(request("a", 60))
    run(host, first)
    first.add(request("b", 60, start=500))
    run(host, first)
    second.add(request("grows", 4, 90, start=900))
    step(host, second, 0)
    for name, start in (("a", 100), ("b", 500)):
        second.add(request(name, 56, start=start))
    run(host, second, 10 * MS)
    assert second.totals.output_tokens == 92
    assert second.blocks.free == second.blocks.usable


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(("add", "step", "step", "step", "abort", "reset", "wait")),
        st.integers(0, 1),  # engine
        st.integers(1, 70),  # prompt tokens
        st.integers(1, 20),  # output tokens
        st.sampled_from((100, 200, 300)),  # beginning of the prompt
        st.integers(-1, 1),  # priority
    ),
    max_size=60,
)


@given(ACTIONS, st.integers(2, 60))
def test_every_request_ends_and_nothing_is_left(
    actions: list[tuple[str, int, int, int, int, int]], slots: int
) -> None:
    host, sims = engines(num_blocks=24, slots=slots)
    now_ps, expected, alive = 0, [0, 0], [set[str](), set[str]()]
    for number, (what, place, prompt, output, start, priority) in enumerate(actions):
        sim = sims[place]
        name = f"{number}"
        match what:
            case "add":
                made = request(name, prompt, output, start)
                made.priority = priority
                if sim.fits(made):
                    sim.add(made)
                    alive[place].add(name)
                    expected[place] += 1
            case "step":
                result = step(host, sim, now_ps)
                now_ps += result.duration_ps
                alive[place] -= {one.request_id for one in result.finished}
            case "abort":
                for victim in sorted(alive[place])[:1]:
                    sim.abort(victim)
                    alive[place].discard(victim)
            case "reset":
                sim.reset_cache(running=True)
            case "wait":
                now_ps += 7 * MS
    for place, sim in enumerate(sims):
        now_ps = run(host, sim, now_ps)
        assert not sim.has_work()
        assert sim.blocks.free == sim.blocks.usable, place
        assert sim.tier is not None
        assert not sim.tier.loading
        assert not sim.tier.client.searches
    cache = host.cache
    assert cache.blocks.pinned == cache.invalid == 0
    assert cache.slots == len(cache.blocks) + cache.lent + cache.free
