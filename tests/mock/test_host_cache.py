"""Simulated engines as workers run them, with a host cache that answers at once, late or never."""

from __future__ import annotations

import time
from collections import deque
from typing import Any

import msgspec
import pytest

from dynamo_cli.config import EngineConfig, HostCacheConfig, SimulationConfig
from dynamo_cli.engines import cache_client
from dynamo_cli.engines.mock import wire
from dynamo_cli.engines.mock.engine import MockEngine
from dynamo_cli.host_cache.state import HostCache
from dynamo_cli.kv import hashes, slots
from dynamo_cli.lab.replay.host_cache import handle
from dynamo_cli.messages.base import Message
from dynamo_cli.messages.host_cache import SlotsLent
from dynamo_cli.messages.request import AddRequest
from dynamo_cli.topology import ProcessId, Role

PROMPT = list(range(100, 900))
COUNT = 6


def engine(index: int = 0, *, min_tokens: int = 0, speedup: float = 1.0) -> MockEngine:
    args = ("--block-size", "8", "--num-gpu-blocks-override", "200", "--max-model-len", "1000")
    config = EngineConfig(
        "tiny",
        "/tiny",
        ("tiny",),
        args=(*args, "--max-num-seqs", "8"),
        simulation=SimulationConfig("cpu-tiny", speedup=speedup),
        host_cache=HostCacheConfig(1 << 25, min_tokens=min_tokens),
    )
    return MockEngine(index, config, kv_events=True)


class Link:
    """A link to the host cache whose messages wait until `carry`."""

    def __init__(self, cache: HostCache, mock: MockEngine) -> None:
        assert mock.cache_client is not None
        self.client = mock.cache_client
        self._cache = cache
        self._process = ProcessId(Role.WORKER, mock.index)
        self._sent: deque[Message] = deque()
        self.client.connect(self._send, self._send)
        self.client.opened()

    def _send(self, message: Message) -> bool:
        self._sent.append(message)
        return True

    def carry(self) -> None:
        while self._sent:
            handle(self._cache, self._process, self._sent.popleft(), self.client.apply)
        for engine, lent in self._cache.lend().items():
            assert engine == self._process
            self.client.apply(SlotsLent(slots.pack(lent)))


def linked(count: int = 2, **options: Any) -> tuple[HostCache, list[MockEngine], list[Link]]:
    cache = HostCache(1 << 25, time.monotonic_ns)
    cache.all_linked()
    mocks = [engine(index, **options) for index in range(count)]
    links = []
    for mock in mocks:
        links.append(Link(cache, mock))
        links[-1].carry()  # one after another, so that each is lent its own slots
    return cache, mocks, links


def message(name: str, prompt: list[int] = PROMPT) -> AddRequest:
    request = wire.CoreRequest(
        name, None, None, wire.Sampling(max_tokens=COUNT), None, 0.0, None, None, None
    )
    return AddRequest(name, hashes.pack_tokens(prompt), [msgspec.msgpack.encode(request)])


def outputs(mock: MockEngine, link: Link | None) -> list[wire.Output]:
    """All that comes until nothing is left to do, as the loop of a worker steps."""
    decoder = msgspec.msgpack.Decoder(wire.CoreOutputs)
    found: list[wire.Output] = []
    while mock.has_work():
        for _, step in mock.step():
            found += decoder.decode(step.frames[0]).outputs
        mock.rest()
        if link is not None:
            link.carry()
    return found


def tokens(found: list[wire.Output]) -> list[int]:
    return [token for output in found for token in output.new_token_ids]


def test_a_prompt_that_another_worker_computed_is_loaded() -> None:
    cache, (first, second), links = linked()
    first.add(0, message("a"))
    one = outputs(first, links[0])
    second.add(0, message("b"))
    other = outputs(second, links[1])
    assert tokens(one) == tokens(other)
    plain, loaded = one[0].prefill_stats, other[0].prefill_stats
    assert plain is not None and loaded is not None
    assert (plain.num_cached_tokens, plain.num_external_cached_tokens) == (0, 0)
    assert loaded == wire.PrefillStats(800, 8, 792, 0, 792)
    assert cache.blocks.pinned == cache.invalid == 0
    copies = links[1].client.copies(1, prefill=False)
    assert copies.loaded_blocks == 99
    assert copies.load_s == pytest.approx(0.0005 + 792 * 0.2e-6)


def test_reports_are_in_the_time_of_the_clock() -> None:
    _, (first, second), links = linked(speedup=10)
    for mock, link in zip((first, second), links, strict=True):
        mock.add(0, message(str(mock.index)))
        outputs(mock, link)
    load_s = links[1].client.copies(1, prefill=False).load_s
    assert load_s == pytest.approx((0.0005 + 792 * 0.2e-6) / 10)


def test_while_the_host_cache_has_not_answered_others_run() -> None:
    _, (mock, _), links = linked()
    mock.add(0, message("asks"))
    assert list(mock.step()) == []
    assert links[0].client.waits()
    assert mock.stats(0).num_waiting_reqs == 1
    links[0].carry()
    assert list(mock.step()) != [], "there is an answer"
    mock.abort(["asks"])
    assert not mock.has_work()


def test_an_aborted_request_needs_no_answer() -> None:
    cache, (mock, _), links = linked()
    mock.add(0, message("asks"))
    list(mock.step())
    mock.abort(["asks"])
    links[0].carry()
    assert cache.blocks.pinned == 0
    assert not links[0].client.waits()


def test_a_host_cache_that_never_answers_delays_a_request_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cache_client, "FIND_TIMEOUT_NS", 20_000_000)
    _, (mock, _), links = linked()
    mock.add(0, message("a"))
    assert len(outputs(mock, None)) == COUNT
    assert links[0].client.dropped[cache_client.LATE] == 100
    mock.add(0, message("b", PROMPT[::-1]))
    began_s = time.monotonic()
    assert list(mock.step()) != []
    assert time.monotonic() - began_s < 10, "it is not asked again"


def test_without_its_host_cache_an_engine_computes_all_itself() -> None:
    _, (first, second), links = linked()
    first.add(0, message("a"))
    outputs(first, links[0])
    second.add(0, message("b"))
    list(second.step())
    links[1].carry()  # it is answered, and dies before it knows that the blocks were read
    list(second.step())
    links[1].client.lost()
    found = outputs(second, None)
    assert len(found) == COUNT
    second.add(0, message("c", PROMPT[::-1]))
    assert len(outputs(second, None)) == COUNT


def test_short_prompts_are_not_shared() -> None:
    cache, (first, second), links = linked(min_tokens=801)
    for mock, link in zip((first, second), links, strict=True):
        mock.add(0, message(str(mock.index)))
        outputs(mock, link)
    assert cache.written == cache.wanted == 0


def test_engines_that_hand_prompts_over_have_no_host_cache_of_their_own() -> None:
    config = EngineConfig(
        "tiny",
        "/tiny",
        ("tiny",),
        simulation=SimulationConfig("cpu-tiny"),
        host_cache=HostCacheConfig(1 << 20),
        kv_role="kv_consumer",
    )
    assert MockEngine(0, config).cache_client is None
