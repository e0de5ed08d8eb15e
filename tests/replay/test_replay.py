"""The replay gives the same numbers each time, whether or not quiet steps are simulated at once."""

from __future__ import annotations

import random
from dataclasses import asdict

import msgspec
import pytest

from dynamo_cli.engines.mock.profile import Profile, load
from dynamo_cli.lab.replay.loop import Replay, Result
from dynamo_cli.lab.replay.peers import PEERS
from dynamo_cli.lab.replay.routers import SERVED
from dynamo_cli.lab.report import summarize
from dynamo_cli.lab.trace.trace import Trace, TraceRequest, infinite_hit_ratio

PROFILE = Profile(
    name="test",
    source="made up",
    step_s=0.005,
    prefill_token_s=0.0001,
    decode_request_s=0.0002,
    decode_context_s=0.0000001,
    prefill_context_s=0.00000001,
    block_size=16,
    num_blocks=120,
    max_num_seqs=8,
    max_num_batched_tokens=256,
    max_model_len=1000,
)


def conversations(seed: int, count: int, *, shared: bool = True) -> Trace:
    """Make requests, some of which continue an earlier prompt."""
    dice = random.Random(seed)
    prompts: list[tuple[int, ...]] = [()]
    requests, now_ns = [], 0
    for _ in range(count):
        now_ns += dice.choice((0, 1, round(dice.expovariate(1) * 20))) * 1_000_000
        start = dice.choice(prompts[-20:]) if shared else ()
        tokens = dice.randrange(1, 200) + 16 * len(start)
        more = tokens // 16 - len(start)
        hashes = start + tuple(dice.randrange(1 << 63) for _ in range(more))
        if tokens < 600:
            prompts.append(hashes)
        requests.append(TraceRequest(now_ns, tokens, dice.randrange(1, 120), hashes))
    return Trace("made up", 16, tuple(requests))


def replay(trace: Trace, policy: str, workers: int = 3, **options: object) -> Result:
    return Replay(trace, SERVED[policy], PROFILE, workers, **options).run()


@pytest.mark.parametrize("policy", sorted(SERVED))
def test_steps_at_once_give_what_steps_one_by_one_give(policy: str) -> None:
    trace = conversations(3, 300)
    results = [replay(trace, policy, leaps=leaps, seed=5) for leaps in (True, False)]
    first, second = [{**asdict(one), "gaps": one.gaps._buckets} for one in results]
    assert first == second
    assert results[0].preemptions > 10
    assert len(results[0].outcomes) == 300


def test_the_same_seed_gives_the_same_numbers() -> None:
    trace = conversations(4, 200)
    one, same, other = (replay(trace, "random", seed=seed).outcomes for seed in (1, 1, 2))
    assert one == same != other


@pytest.mark.parametrize(("policy", "first"), [("kv:time", 2), ("kv:blocks", 1)])
def test_what_waits_is_taken_when_it_is_due(policy: str, first: int) -> None:
    """A long prompt, and a short one that came a little later, wait behind another prompt."""
    lengths = (900, 950, 40)
    requests = [TraceRequest(at * 10**6, tokens, 2, ()) for at, tokens in enumerate(lengths)]
    outcomes = replay(Trace("three", 16, tuple(requests)), policy, workers=1).outcomes
    order = sorted(range(3), key=lambda at: outcomes[at].start_s + outcomes[at].ttft_s)
    assert order[:2] == [0, first]


def chats(count: int, turns: int) -> Trace:
    """Make a trace of conversations whose turns have two blocks, one request at a time."""
    requests = []
    for turn in range(1, turns + 1):
        for chat in range(count):
            hashes = tuple(1000 * chat + block + 1 for block in range(2 * turn))
            requests.append(TraceRequest(len(requests) * 10**9, 32 * turn, 4, hashes))
    return Trace("chats", 16, tuple(requests))


def test_what_is_cached_is_found_by_kv_routing() -> None:
    trace = chats(count=7, turns=6)
    blind, aware = (
        summarize(result.outcomes, result.gaps)
        for result in (replay(trace, "round-robin"), replay(trace, "kv"))
    )
    assert blind.hit_ratio is not None
    assert aware.hit_ratio == pytest.approx(infinite_hit_ratio(trace))
    assert aware.hit_ratio > 1.5 * blind.hit_ratio


def apart(seed: int) -> Trace:
    """Make requests that share nothing, and come as fast as four engines can nearly serve them."""
    dice, now_s, requests = random.Random(seed), 0.0, []
    for number in range(500):
        now_s += dice.expovariate(72)
        tokens = round(dice.lognormvariate(6.8, 0.6))
        blocks = tuple(1000 * (number + 1) + place for place in range(tokens // 64))
        request = TraceRequest(round(now_s * 10**9), tokens, dice.randrange(20, 160), blocks)
        requests.append(request)
    return Trace("apart", 64, tuple(requests))


@pytest.mark.parametrize("seed", range(4))
def test_where_nothing_is_shared_kv_is_not_later_than_rules_that_count_requests(seed: int) -> None:
    engine = msgspec.structs.replace(load("gpu-8b"), block_size=64, num_blocks=4000)
    ours, counted, vllm = (
        summarize(result.outcomes, result.gaps).ttft_ms.mean
        for result in (
            Replay(apart(seed), (SERVED | PEERS)[name], engine, 4).run()
            for name in ("kv", "least-loaded", "vllm-dp")
        )
    )
    assert ours < 0.985 * counted < 0.985 * vllm


def test_what_is_due_first_coming_first_pays_where_nothing_is_shared() -> None:
    for seed in range(5):
        trace = conversations(seed, 200, shared=False)
        due, arrived = (
            summarize(result.outcomes, result.gaps).ttft_ms.mean
            for result in (replay(trace, "kv"), replay(trace, "least-loaded"))
        )
        assert due < 1.02 * arrived


def test_a_slower_trace_waits_less() -> None:
    trace = conversations(7, 200)
    slow, fast = (replay(trace, "kv", speed=speed) for speed in (0.2, 2.0))
    assert summarize(slow.outcomes, slow.gaps).ttft_ms.p90 < (
        summarize(fast.outcomes, fast.gaps).ttft_ms.p90
    )


def test_what_never_fits_is_counted() -> None:
    trace = conversations(8, 20)
    long = msgspec.structs.replace(trace.requests[3], input_tokens=2000)
    requests = (*trace.requests[:3], long, *trace.requests[4:])
    outcomes = replay(Trace("t", 16, requests), "kv").outcomes
    assert [outcome.error for outcome in outcomes].count("too_long") == 1
    assert outcomes[3].error == "too_long"
