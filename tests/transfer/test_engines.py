"""Prefill in one real engine and decode in another give the same tokens as a single engine."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dynamo_cli.engines.vllm.transfer.arena import GONE, TAKEN_BACK
from dynamo_cli.models import tiny
from tests.transfer.engines import BLOCK, CHUNKED, FORKSERVER, Engine, State

pytestmark = pytest.mark.engine

COUNT = 8
SLOW_S = 0.4
BLOCK_BYTES = (
    2 * 2 * 2 * 32 * 4 * BLOCK
)  # layers, keys and values, heads, head size, bytes of a float32
LENGTHS = (1, 2, 31, 32, 33, 63, 64, 65, 100, 129, 200, 256, 300, 511, 600)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    FORKSERVER.set_forkserver_preload(["dynamo_cli.engines.vllm.core.preload"])
    folder: Path = tmp_path_factory.mktemp("tiny")
    tiny.write(folder)
    return str(folder)


@contextmanager
def engine(*args: Any, **kwargs: Any) -> Iterator[Engine]:
    one = Engine(*args, **kwargs)
    try:
        one.ready()
        yield one
    finally:
        one.stop()


@pytest.fixture(scope="module")
def whole(model: str) -> Iterator[Engine]:
    with engine(model) as one:
        yield one


@pytest.fixture(scope="module")
def prefiller(model: str) -> Iterator[Engine]:
    with engine(model, "kv_producer", CHUNKED) as one:
        yield one


@pytest.fixture(scope="module")
def decoder(model: str) -> Iterator[Engine]:
    with engine(model, "kv_consumer") as one:
        yield one


@pytest.fixture
def pair(prefiller: Engine, decoder: Engine) -> Iterator[tuple[Engine, Engine]]:
    """Both engines; checks after each test that they hold nothing."""
    before = [one.state() for one in (prefiller, decoder)]
    yield prefiller, decoder
    for one in (prefiller, decoder):
        one.quick_copies()
        one.run()
    prefiller.release(decoder.state().unneeded)
    for one, then in zip((prefiller, decoder), before, strict=True):
        assert_nothing_held(one.state(), then)


def assert_nothing_held(now: State, before: State) -> None:
    assert (now.requests, now.used_slots) == (0, 0)
    assert now.free_blocks == before.free_blocks
    assert now.fds - now.maps == before.fds - before.maps  # each mapping keeps a descriptor


def prompt(seed: int, length: int) -> list[int]:
    dice = random.Random(seed)
    return [dice.randrange(5, 1000) for _ in range(length)]


def expected(whole: Engine, *prompts: list[int]) -> list[list[int]]:
    for index, tokens in enumerate(prompts):
        whole.decode(str(index), tokens, COUNT)
    whole.run()
    answers = whole.answers()
    return [answers[str(index)] for index in range(len(prompts))]


def prefilled(
    prefiller: Engine, name: str, tokens: list[int], skip_tokens: int = 0
) -> dict[str, Any]:
    prefiller.prefill(name, tokens, skip_tokens)
    prefiller.run()
    params: dict[str, Any] = prefiller.handed_over()[name]
    return params


def decoded(decoder: Engine, name: str, tokens: list[int], params: dict[str, Any]) -> list[int]:
    decoder.decode(name, tokens, COUNT, params)
    decoder.run()
    answer: list[int] = decoder.answers()[name]
    return answer


def grown(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    return {name: after[name] - before.get(name, 0) for name in after} if after else {}


def failures_since(decoder: Engine, before: State) -> dict[str, int]:
    new = grown(before.failures, decoder.state().failures)
    return {reason: count for reason, count in new.items() if count}


def test_mixed_prompts_give_the_same_tokens(whole: Engine, pair: tuple[Engine, Engine]) -> None:
    prefiller, decoder = pair
    shared = prompt(1, 200)
    prompts = [prompt(length, length) for length in LENGTHS]
    prompts += [shared + prompt(100 + index, 90 * index) for index in range(6)]
    wanted = expected(whole, *prompts)
    before = decoder.state()
    # Half of the prompts go first, so that the others find prefixes in both caches.
    for half in (prompts[::2], prompts[1::2]):
        names = {f"m{prompts.index(tokens)}": tokens for tokens in half}
        for name, tokens in names.items():
            prefiller.prefill(name, tokens, decoder.cached_tokens(tokens))
        prefiller.run()
        for name, params in prefiller.handed_over().items():
            decoder.decode(name, names[name], COUNT, params)
        decoder.run()
        answers = decoder.answers()
        assert [answers[name] for name in names] == [wanted[prompts.index(one)] for one in half]
    after = decoder.state()
    assert grown(before.copies, after.copies) == {"load": len(prompts)}
    assert failures_since(decoder, before) == {}
    prefiller.release(after.unneeded)


def test_only_missing_blocks_travel(whole: Engine, pair: tuple[Engine, Engine]) -> None:
    prefiller, decoder = pair
    first, longer = prompt(2, 3 * BLOCK), prompt(2, 3 * BLOCK) + prompt(3, 2 * BLOCK + 1)
    decoded(decoder, "first", first, prefilled(prefiller, "first", first))
    before, skip_tokens = decoder.state(), decoder.cached_tokens(longer)
    assert skip_tokens == 3 * BLOCK
    params = prefilled(prefiller, "longer", longer, skip_tokens)
    assert len(params["slots"]) == 3
    assert [decoded(decoder, "longer", longer, params)] == expected(whole, longer)
    # The decode side's cache grew after it had told the prefill side how much it has:
    again = prefilled(prefiller, "again", longer)
    assert len(again["slots"]) == 6
    assert [decoded(decoder, "again", longer, again)] == expected(whole, longer)
    after = decoder.state()
    assert grown(before.nbytes, after.nbytes) == {"load": (3 + 1) * BLOCK_BYTES}
    prefiller.release([*before.unneeded, *after.unneeded])


@pytest.mark.parametrize("length", [3 * BLOCK, 3 * BLOCK + 5], ids=["full blocks", "a part"])
def test_the_prompt_of_an_answer_that_has_begun_elsewhere(
    length: int, whole: Engine, pair: tuple[Engine, Engine]
) -> None:
    prefiller, decoder = pair
    for place in range(COUNT):
        tokens = prompt(100 * length + place, length)
        ((answer,), before) = expected(whole, tokens), decoder.state()
        params = prefilled(prefiller, f"begun {place}", tokens)
        decoder.decode(f"begun {place}", tokens, COUNT, params, answer[:place])
        decoder.run()
        assert decoder.answers() == {f"begun {place}": answer[place:]}
        assert decoder.started()[-1] == f"begun {place}"
        after = decoder.state()
        assert grown(before.copies, after.copies) == {"load": 1}
        prefiller.release(after.unneeded)


def test_more_than_the_prompt_of_such_an_answer_may_be_here(
    whole: Engine, pair: tuple[Engine, Engine]
) -> None:
    prefiller, decoder = pair
    tokens = prompt(9, 2 * BLOCK - 2)
    [answer] = expected(whole, tokens)
    decoder.decode("first", tokens, COUNT)
    decoder.run()
    decoder.answers()
    assert decoder.cached_tokens(tokens, answer[:6]) == BLOCK  # of the prompt
    before, params = decoder.state(), prefilled(prefiller, "again", tokens, BLOCK)
    decoder.decode("again", tokens, COUNT, params, answer[:6])
    decoder.run()
    assert decoder.answers() == {"again": answer[6:]}
    after = decoder.state()
    assert (grown(before.copies, after.copies), after.unneeded) == ({"load": 0}, ["again"])
    prefiller.release(after.unneeded)


def test_a_prefix_that_was_evicted_meanwhile(whole: Engine, pair: tuple[Engine, Engine]) -> None:
    prefiller, decoder = pair
    tokens, before = prompt(4, 4 * BLOCK), decoder.state()
    params = prefilled(prefiller, "gap", tokens, skip_tokens=2 * BLOCK)
    assert [decoded(decoder, "gap", tokens, params)] == expected(whole, tokens)
    after = decoder.state()
    assert (grown(before.failures, after.failures), after.unneeded) == ({"gap": 1}, ["gap"])
    prefiller.release(after.unneeded)


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_an_abort_during_prefill(pair: tuple[Engine, Engine], steps: int) -> None:
    prefiller, _ = pair
    prefiller.prefill("gone", prompt(10 + steps, 300))
    for _ in range(steps):
        prefiller.step()
    prefiller.abort("gone")
    prefiller.run()
    assert prefiller.handed_over() == {}
    assert prefiller.state().used_slots == 0


def test_an_abort_while_the_blocks_are_saved(pair: tuple[Engine, Engine]) -> None:
    prefiller, _ = pair
    free_blocks = prefiller.state().free_blocks
    prefiller.slow_copies(SLOW_S)
    prefiller.prefill("gone", prompt(14, 60))
    prefiller.step()
    assert list(prefiller.handed_over()) == ["gone"]
    prefiller.abort("gone")
    prefiller.release(["gone"])
    now = prefiller.state()
    assert (now.used_slots, now.requests) == (0, 1)
    assert now.free_blocks < free_blocks  # they are still being read


def test_an_abort_before_the_load(pair: tuple[Engine, Engine]) -> None:
    prefiller, decoder = pair
    tokens = prompt(15, 300)
    decoder.decode("gone", tokens, COUNT, prefilled(prefiller, "gone", tokens))
    decoder.abort("gone")
    decoder.run()
    state = decoder.state()
    assert (state.unneeded, state.requests) == (["gone"], 0)
    prefiller.release(state.unneeded)


def test_an_abort_during_the_load_writes_into_nobody_s_blocks(
    whole: Engine, pair: tuple[Engine, Engine]
) -> None:
    prefiller, decoder = pair
    tokens, other = prompt(16, 300), prompt(17, 500)
    free_blocks = decoder.state().free_blocks
    params = prefilled(prefiller, "gone", tokens)
    decoder.slow_copies(SLOW_S)
    decoder.decode("gone", tokens, COUNT, params)
    decoder.step()
    decoder.abort("gone")
    held = free_blocks - decoder.state().free_blocks
    assert held == len(params["slots"])
    decoder.decode("other", other, COUNT)
    decoder.run()
    assert [decoder.answers()["other"]] == expected(whole, other)
    state = decoder.state()
    assert (state.free_blocks, state.unneeded) == (free_blocks, ["gone"])
    prefiller.release(state.unneeded)


def test_an_abort_after_the_load(pair: tuple[Engine, Engine]) -> None:
    prefiller, decoder = pair
    tokens = prompt(18, 300)
    decoder.decode("gone", tokens, 1000, prefilled(prefiller, "gone", tokens))
    while not decoder.said("gone"):
        decoder.step()
    decoder.abort("gone")
    decoder.run()
    prefiller.release(decoder.state().unneeded)


def test_slots_taken_back_too_early(whole: Engine, pair: tuple[Engine, Engine]) -> None:
    prefiller, decoder = pair
    tokens, before = prompt(20, 300), decoder.state()
    params = prefilled(prefiller, "robbed", tokens)
    prefiller.release(["robbed"])
    assert prefilled(prefiller, "robber", prompt(21, 300))["slots"] == params["slots"]
    assert [decoded(decoder, "robbed", tokens, params)] == expected(whole, tokens)
    assert failures_since(decoder, before) == {TAKEN_BACK: 1}
    prefiller.release(["robber"])


def test_a_full_arena_refuses(model: str, whole: Engine, decoder: Engine) -> None:
    long, short = prompt(22, 5 * BLOCK), prompt(23, 4 * BLOCK)
    with engine(model, "kv_producer", arena_bytes=4 * BLOCK_BYTES) as small:
        assert prefilled(small, "long", long) == {"failed": "no_room"}
        params = prefilled(small, "short", short)
        assert prefilled(small, "more", short) == {"failed": "no_room"}
        assert [decoded(decoder, "short", short, params)] == expected(whole, short)
        small.release(decoder.state().unneeded)
        state = small.state()
        assert (state.used_slots, state.requests) == (0, 0)
        assert state.failures == {"no_room": 2}


@pytest.mark.parametrize("mapped", [False, True])
def test_a_prefiller_killed_before_the_load(
    model: str, whole: Engine, decoder: Engine, mapped: bool
) -> None:
    tokens, before = prompt(30 + mapped, 300), decoder.state()
    victim = Engine(model, "kv_producer", CHUNKED)
    if mapped:
        first = prompt(32, 64)
        decoded(decoder, "first", first, prefilled(victim, "first", first))
    params = prefilled(victim, "k", tokens)
    victim.kill()
    assert [decoded(decoder, "k", tokens, params)] == expected(whole, tokens)
    # A mapped arena outlives its writer.
    assert failures_since(decoder, before) == ({} if mapped else {GONE: 1})


def test_a_prefiller_killed_while_it_saves(model: str, whole: Engine, decoder: Engine) -> None:
    tokens, before = prompt(33, 300), decoder.state()
    victim = Engine(model, "kv_producer", CHUNKED)
    first = prompt(34, 64)
    decoded(decoder, "first", first, prefilled(victim, "first", first))
    victim.slow_copies(60.0)
    victim.prefill("k", tokens)
    while not (over := victim.handed_over()):
        victim.step()
    decoder.decode("k", tokens, COUNT, over["k"])
    for _ in range(20):
        decoder.step()
    assert decoder.said("k") == 0
    victim.kill()
    decoder.run()
    assert [decoder.answers()["k"]] == expected(whole, tokens)
    assert failures_since(decoder, before) == {GONE: 1}


def test_only_the_living_are_mapped(pair: tuple[Engine, Engine]) -> None:
    prefiller, decoder = pair
    for index in range(3):
        tokens = prompt(35 + index, 64)
        decoded(decoder, f"l{index}", tokens, prefilled(prefiller, f"l{index}", tokens))
    state = decoder.state()
    assert state.maps == 1
    prefiller.release(state.unneeded)


@pytest.mark.parametrize(
    ("args", "arena_bytes", "message"),
    [
        (("--distributed-executor-backend", "mp"), 1 << 20, "one process"),
        ((), BLOCK_BYTES - 1, "no room for a block"),
    ],
)
def test_what_cannot_work_is_refused_at_the_start(
    model: str, args: tuple[str, ...], arena_bytes: int, message: str
) -> None:
    one = Engine(model, "kv_producer", args, arena_bytes)
    with pytest.raises(AssertionError, match=f"UsageError: .*{message}"):
        one.ready()
    one.stop()
