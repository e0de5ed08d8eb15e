"""The rules of other systems as tables, and the bound."""

from __future__ import annotations

import random
from typing import Any

import pytest

from dynamo_cli.engines.mock import profile
from dynamo_cli.lab.replay.loop import Replay, Result
from dynamo_cli.lab.replay.peers import PEERS, CacheAware, data_parallel, first_token_only
from dynamo_cli.lab.replay.routers import SERVED
from dynamo_cli.lab.trace.trace import Trace, TraceRequest, infinite_hit_ratio
from dynamo_cli.router.policies import Request, WorkerLoad
from dynamo_cli.router.time_estimator import Prices
from dynamo_cli.units import SECOND_NS

BLOCK = 16


def request(*blocks: int) -> Request:
    """Make a request for a prompt of these blocks and one more token."""
    prices = Prices(request_s=0, token_s=0.001, pair_s=0)
    return Request(len(blocks) * BLOCK + 1, len(blocks) + 1, BLOCK, blocks, prices)


def load(worker: int, **more: Any) -> WorkerLoad:
    return WorkerLoad(worker, **more)


@pytest.mark.parametrize(
    ("used", "running", "winner"),
    [(0.5, 1, 0), (0.5, 2, 1), (0.75, 2, 0), (0.75, 3, 1), (1.0, 4, 0), (1.0, 5, 1), (1.2, 5, 1)],
)
def test_data_parallel_counts_more_for_a_waiting_request_the_fuller_the_cache(
    used: float, running: int, winner: int
) -> None:
    # Worker 1 has a request that waits; of equals the first wins, which was used longer ago.
    blocks = {"num_blocks": 100, "decode_blocks": round(100 * used)}
    waiting = load(1, active_requests=1, waiting_requests=1, last_used=1, **blocks)
    loads = [load(0, active_requests=running, **blocks), waiting]
    assert data_parallel(request(1, 2), loads).worker == winner


def test_data_parallel_looks_neither_at_caches_nor_at_sizes_that_it_does_not_know() -> None:
    loads = [load(0, overlap_blocks=9, active_requests=1), load(1)]
    assert data_parallel(request(1, 2), loads).worker == 1


@pytest.mark.parametrize(("wait_s", "winner"), [(0.031, 0), (0.033, 1)])
def test_first_token_only_weighs_the_queue_against_what_is_cached(
    wait_s: float, winner: int
) -> None:
    loads = [load(0, expected_blocks=2, wait_s=wait_s, active_requests=50), load(1)]
    assert first_token_only(request(1, 2, 3), loads).worker == winner


def test_cache_aware_follows_what_it_sent_and_else_the_smallest_tree() -> None:
    policy = CacheAware()
    idle = [load(worker, last_used=worker) for worker in range(3)]
    assert policy(request(1, 2, 3), idle).worker == 0
    assert policy(request(4, 5), idle).worker == 1
    assert policy(request(6), idle).worker == 2
    assert policy(request(1, 2, 9), idle).worker == 0  # two of three and a bit
    assert policy(request(4, 7, 8, 9), idle).worker == 2  # a quarter is too little: the least sent
    assert policy.sent == {0: {1, 2, 3, 9}, 1: {4, 5}, 2: {6, 4, 7, 8, 9}}


@pytest.mark.parametrize(
    ("busiest", "idlest", "winner"),
    [(64, 0, 0), (65, 0, 1), (200, 134, 0), (203, 135, 1), (199, 134, 0)],
)
def test_cache_aware_balances_when_loads_are_far_apart(
    busiest: int, idlest: int, winner: int
) -> None:
    policy = CacheAware(sent={0: {1, 2, 3}})
    loads = [load(0, active_requests=busiest), load(1, active_requests=idlest)]
    assert policy(request(1, 2, 3), loads).worker == winner


# -- in the replay -------------------------------------------------------------------------------


def chats(count: int) -> Trace:
    """Make a trace of chats over one system prompt, two a second. They have four turns, each two
    blocks longer than the one before."""
    dice = random.Random(1)
    turns = [
        (dice.uniform(0, count / 2) + 5 * turn, chat, turn)
        for chat in range(count // 4)
        for turn in range(4)
    ]
    requests = []
    for at_s, chat, turn in sorted(turns):
        own = [1_000 * (chat + 1) + place for place in range(2 * turn + 20)]
        blocks = (1, 2, 3, 4, *own)
        requests.append(TraceRequest(round(at_s * SECOND_NS), len(blocks) * BLOCK + 5, 20, blocks))
    return Trace("chats", BLOCK, tuple(requests))


def hit_ratio(result: Result) -> float:
    done = result.outcomes
    assert not any(outcome.error for outcome in done)
    return sum(one.cached_tokens or 0 for one in done) / sum(one.prompt_tokens for one in done)


@pytest.fixture(scope="module")
def results() -> dict[str, Result]:
    trace, engine = chats(200), profile.load("gpu-8b")
    names = ("round-robin", "kv:time", *PEERS)
    return {name: Replay(trace, (SERVED | PEERS)[name], engine, 4).run() for name in names}


def test_the_bound_finds_all_that_came_before_and_nobody_finds_more(
    results: dict[str, Result],
) -> None:
    found = {name: hit_ratio(result) for name, result in results.items()}
    assert found["pooled"] == pytest.approx(infinite_hit_ratio(chats(200)), abs=0.02)
    assert max(found.values()) <= found["pooled"] + 0.001
    assert found["kv:time"] > 0.9 * found["pooled"] > 1.5 * found["round-robin"]


@pytest.mark.parametrize("name", ["vllm-dp", "sglang", "pooled"])
def test_everybody_gets_some(results: dict[str, Result], name: str) -> None:
    assert min(results[name].requests) > 0
