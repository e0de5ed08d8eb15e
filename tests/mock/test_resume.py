"""A simulated engine that goes on with an answer gives the rest of it."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dynamo_cli.config import EngineConfig, SimulationConfig
from dynamo_cli.engines.mock import wire
from dynamo_cli.engines.mock.engine import MockEngine
from dynamo_cli.errors import InternalError
from dynamo_cli.kv import hashes
from dynamo_cli.messages.request import AddRequest

PROMPT = list(range(100, 137))
COUNT = 40
CROWD = [0, 5, 0, 5, 30, 5]
"""Places of requests that do not fit into the small cache together."""


def engine(*args: str, kv_role: str = "") -> MockEngine:
    sizes = ("--block-size", "8", "--num-gpu-blocks-override", "400", "--max-model-len", "200")
    sizes += ("--max-num-seqs", "8")
    return MockEngine(
        0,
        EngineConfig(
            "tiny",
            "/tiny",
            ("tiny",),
            args=(*sizes, *args),
            simulation=SimulationConfig("cpu-tiny", speedup=1e6),
            kv_role=kv_role,
        ),
    )


def message(said: list[int], name: str = "a", count: int | None = COUNT) -> AddRequest:
    request = wire.CoreRequest(
        name, None, None, wire.Sampling(max_tokens=count), None, 0.0, None, None, None
    )
    tokens = hashes.pack_tokens(PROMPT)
    said_tokens = hashes.pack_tokens(said)
    return AddRequest(name, tokens, [msgspec.msgpack.encode(request)], output_tokens=said_tokens)


def outputs(mock: MockEngine) -> list[wire.Output]:
    """All that comes until nothing is left to do."""
    decoder = msgspec.msgpack.Decoder(wire.CoreOutputs)
    found: list[wire.Output] = []
    while mock.has_work():
        for _, step in mock.step():
            found += decoder.decode(step.frames[0]).outputs
    return found


def tokens(found: list[wire.Output]) -> list[int]:
    return [token for output in found for token in output.new_token_ids]


@pytest.mark.parametrize("args", [(), ("--max-num-batched-tokens", "16")])
@pytest.mark.parametrize("count", [COUNT, None], ids=["as long as asked for", "by itself"])
def test_the_rest_is_the_same_from_every_place(args: tuple[str, ...], count: int | None) -> None:
    first = engine(*args)
    first.add(0, message([], count=count))
    whole = outputs(first)
    assert len(whole) == (count or 163)
    for place in range(1, len(whole)):
        other = engine(*args)
        other.add(0, message(tokens(whole)[:place], count=count))
        rest = outputs(other)
        assert tokens(rest) == tokens(whole)[place:]
        assert [one.finish_reason for one in rest] == [one.finish_reason for one in whole][place:]
        assert [one.prefill_stats or one.events for one in rest] == [None] * len(rest)


@example(CROWD)
@given(st.lists(st.integers(0, COUNT - 1), min_size=2, max_size=12))
def test_many_that_push_each_other_out_get_their_rest(places: list[int]) -> None:
    whole = engine()
    whole.add(0, message([]))
    said = tokens(outputs(whole))
    small = engine("--num-gpu-blocks-override", "16", "--no-enable-prefix-caching")
    for number, place in enumerate(places):
        small.add(0, message(said[:place], str(number)))
    found = outputs(small)
    for number, place in enumerate(places):
        assert tokens([one for one in found if one.request_id == str(number)]) == said[place:]
    stats = small.stats(0)
    assert stats.preemptions or places != CROWD
    assert stats.output_tokens == sum(COUNT - place for place in places)
    assert stats.prompt_tokens == len(PROMPT) * places.count(0)


def test_what_is_complete_is_refused() -> None:
    mock = engine()
    with pytest.raises(InternalError, match="complete already, with 40 tokens"):
        mock.add(0, message([7] * COUNT))
    assert not mock.has_work()


def test_statistics_count_only_what_is_new() -> None:
    mock = engine()
    mock.add(0, message([]))
    said = tokens(outputs(mock))
    before = mock.stats(0)
    mock.add(0, message(said[:30]))
    outputs(mock)
    after = mock.stats(0)
    assert after.output_tokens - before.output_tokens == COUNT - 30
    for name in ("prompt_tokens", "prefix_cache_queries_tokens", "prefix_cache_hits_tokens"):
        assert getattr(after, name) == getattr(before, name)


def test_it_finds_the_blocks_of_its_answer() -> None:
    mock = engine("--max-num-batched-tokens", "16")
    mock.add(0, message([]))
    said = tokens(outputs(mock))
    before = mock.stats(0).steps
    mock.add(0, message(said[:39]))
    outputs(mock)
    assert mock.stats(0).steps == before + 1  # 72 of 76 tokens are in the cache


def test_its_prompt_can_be_prefilled_elsewhere() -> None:
    mock = engine("--max-num-batched-tokens", "8", kv_role="kv_consumer")
    mock.add(0, message([], "whole"))
    said = tokens(outputs(mock))
    assert mock.decode_side.take_started() == ["whole"]
    other = engine("--max-num-batched-tokens", "8", kv_role="kv_consumer")
    prepared = other.decode_side.prepare(0, message(said[:5], "moved"))
    assert other.decode_side.cached_tokens(prepared) == 0
    other.decode_side.start(prepared, {"transfer_id": "moved"})
    assert tokens(outputs(other)) == said[5:]
    assert other.decode_side.take_started() == ["moved"]
    assert other.stats(0).steps == COUNT - 5  # the first step computed what was said
    again = other.decode_side.prepare(0, message(said[:20], "again"))
    assert other.decode_side.cached_tokens(again) == 32
