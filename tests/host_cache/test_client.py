"""Engines' sides of the host cache against its real state, over links that take their time."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from dynamo_cli.engines.cache_client import FIND_TIMEOUT_NS, LATE, NO_CACHE, NO_SLOT, CacheClient
from dynamo_cli.host_cache.resting import REST_NS
from dynamo_cli.host_cache.state import HostCache
from dynamo_cli.kv import slots
from dynamo_cli.messages.base import Message
from dynamo_cli.messages.host_cache import (
    BlocksFound,
    BlocksRead,
    BlocksWritten,
    CacheRefused,
    FindBlocks,
    OpenCache,
    SlotsLent,
    SlotsReturned,
)
from dynamo_cli.topology import ProcessId, Role

SLOTS, SLOT_BYTES, BLOCK_TOKENS = 25, 10, 16
ENGINES = st.integers(0, 2)
REQUESTS = st.sampled_from(["a", "b", "c"])
PROMPTS = st.lists(st.integers(0, 2), min_size=1, max_size=4)
HALF = b"half written"


def keys_of(prompt: list[int]) -> list[bytes]:
    """The keys of its blocks: each depends on those before it."""
    return [bytes(prompt[: depth + 1]) for depth in range(len(prompt))]


@dataclass
class Engine:
    """An engine, and the messages on its link.

    Attributes:
        up, down: to the host cache, and from there.
        prompts: what its requests have asked for.
        reads: slots that it copies from, with what must be in them, by request.
        writes: slots that it copies to.
        cut_here, cut_there: whether its end of the link is gone, and that of the host cache; both
            live.
    """

    client: CacheClient
    up: deque[Message] = field(default_factory=deque)
    down: deque[Any] = field(default_factory=deque)
    prompts: dict[str, list[bytes]] = field(default_factory=dict)
    reads: dict[str, dict[bytes, int]] = field(default_factory=dict)
    writes: list[int] = field(default_factory=list)
    cut_here: bool = False
    cut_there: bool = False


class Host:
    """A host cache, its engines, and the memory that they share."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.memory: dict[int, bytes] = {}
        self.cache = HostCache(SLOTS * SLOT_BYTES, lambda: self.now_ns)
        self.cache.all_linked()
        self.engines = {number: self._engine() for number in range(3)}
        for number in self.engines:
            self._link(number)

    def _engine(self) -> Engine:
        client = CacheClient(SLOT_BYTES, "flat", BLOCK_TOKENS, SLOTS, clock=lambda: self.now_ns)
        engine = Engine(client)
        client.connect(partial(self._send, engine), partial(self._send, engine))
        return engine

    @staticmethod
    def _send(engine: Engine, message: Message) -> bool:
        if not engine.cut_here and not engine.cut_there:
            engine.up.append(message)
        return not engine.cut_here

    def _link(self, number: int) -> None:
        self.cache.linked(name(number))
        self.engines[number].client.opened()

    # -- messages ------------------------------------------------------------------------------

    def hear(self, number: int) -> None:
        """The host cache takes the next message of this engine."""
        engine, who = self.engines[number], name(number)
        match engine.up.popleft():
            case OpenCache(size, layout, reserve, busy):
                if refusal := self.cache.open(who, size, layout, slots.unpack(busy), reserve):
                    engine.down.append(CacheRefused(refusal))
            case FindBlocks(question, keys):
                found = self.cache.find(who, question, keys)
                if found is not None and not engine.cut_here:
                    engine.down.append(BlocksFound(question, slots.pack(found)))
            case BlocksRead(question):
                self.cache.read(who, question)
            case BlocksWritten(keys, written):
                self.cache.wrote(who, keys, slots.unpack(written))
            case SlotsReturned(returned):
                self.cache.returned(who, slots.unpack(returned))

    def lend(self) -> None:
        for who, lent in self.cache.lend().items():
            if not (engine := self.engines[who.index]).cut_here:
                engine.down.append(SlotsLent(slots.pack(lent)))

    def tell(self, number: int) -> None:
        """The engine takes the next message of the host cache."""
        engine = self.engines[number]
        engine.client.apply(engine.down.popleft())

    # -- links that are made anew ----------------------------------------------------------------

    def cut_there(self, number: int) -> None:
        """The host cache is told that the link is gone; it has read all that was written to it."""
        engine = self.engines[number]
        while engine.up:
            self.hear(number)
        self.cache.parted(name(number))
        engine.cut_there = True
        self._joined_again(number)

    def cut_here(self, number: int) -> None:
        """The engine is told that the link is gone; it has read all that was written to it."""
        engine = self.engines[number]
        while engine.down:
            self.tell(number)
        engine.client.lost()
        engine.cut_here = True
        self._joined_again(number)

    def _joined_again(self, number: int) -> None:
        engine = self.engines[number]
        if engine.cut_here and engine.cut_there:
            engine.cut_here = engine.cut_there = False
            self._link(number)

    def join_again(self, number: int) -> None:
        """Both are told of a cut of which one was told."""
        if self.engines[number].cut_here:
            self.cut_there(number)
        elif self.engines[number].cut_there:
            self.cut_here(number)

    # -- deaths --------------------------------------------------------------------------------

    def kill_engine(self, number: int) -> None:
        self.cache.gone(name(number))
        self.engines[number] = self._engine()
        self._link(number)

    def kill_cache(self) -> None:
        self.cache = HostCache(SLOTS * SLOT_BYTES, lambda: self.now_ns)
        for number, engine in self.engines.items():
            engine.up.clear()
            engine.down.clear()
            engine.cut_here = engine.cut_there = False
            engine.client.lost()
            self._link(number)
        self.cache.all_linked()

    # -- copies --------------------------------------------------------------------------------

    def begin_read(self, number: int, request: str) -> None:
        engine = self.engines[number]
        found = dict(engine.client.slots_of(request))
        for key, slot in found.items():
            assert self.memory[slot] == key, "it is told of a slot with another block"
        engine.reads[request] = found

    def end_request(self, number: int, request: str) -> None:
        engine = self.engines[number]
        for key, slot in engine.reads.pop(request, {}).items():
            assert self.memory[slot] == key, "somebody wrote to it meanwhile"
        del engine.prompts[request]
        engine.client.end(request)

    def begin_write(self, number: int, count: int) -> None:
        taken = self.engines[number].client.take(count)
        busy = {slot for one in self.engines.values() for slot in in_use(one)}
        assert not set(taken) & busy, "somebody else copies from it or to it"
        self.engines[number].writes += taken
        self.memory |= dict.fromkeys(taken, HALF)

    def end_write(self, number: int, prompt: list[int]) -> None:
        engine, keys = self.engines[number], keys_of(prompt)
        chosen, engine.writes = engine.writes[: len(keys)], engine.writes[len(keys) :]
        self.memory |= dict(zip(chosen, keys, strict=False))
        engine.client.written(keys[: len(chosen)], chosen)

    def give_up_write(self, number: int) -> None:
        engine = self.engines[number]
        given, engine.writes = engine.writes, []
        engine.client.unused(given)

    def settle(self) -> None:
        """All messages arrive."""
        while any(engine.up or engine.down for engine in self.engines.values()):
            for number, engine in self.engines.items():
                while engine.up:
                    self.hear(number)
                while engine.down:
                    self.tell(number)

    def supply(self) -> None:
        """All messages arrive, and slots are lent."""
        self.settle()
        self.lend()
        self.settle()


def name(number: int) -> ProcessId:
    return ProcessId(Role.WORKER, number)


def in_use(engine: Engine) -> Iterator[int]:
    """Slots that it copies from or to."""
    yield from engine.writes
    for found in engine.reads.values():
        yield from found.values()


class ClientMachine(RuleBasedStateMachine):
    """Requests that ask, read and leave; blocks that are written; deaths; messages on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.host = Host()

    @rule(number=ENGINES, request=REQUESTS, prompt=PROMPTS)
    def find(self, number: int, request: str, prompt: list[int]) -> None:
        engine = self.host.engines[number]
        keys = engine.prompts.setdefault(request, keys_of(prompt))
        found = engine.client.find(request, keys)
        assert found is None or found.keys() <= set(keys)

    @rule(number=ENGINES, request=REQUESTS)
    def read(self, number: int, request: str) -> None:
        if request in self.host.engines[number].prompts:
            self.host.begin_read(number, request)

    @rule(number=ENGINES, request=REQUESTS)
    def end(self, number: int, request: str) -> None:
        if request in self.host.engines[number].prompts:
            self.host.end_request(number, request)

    @rule(number=ENGINES, count=st.integers(1, 4))
    def take(self, number: int, count: int) -> None:
        self.host.begin_write(number, count)

    @rule(number=ENGINES, prompt=PROMPTS)
    def written(self, number: int, prompt: list[int]) -> None:
        self.host.end_write(number, prompt)

    @rule(number=ENGINES)
    def give_up(self, number: int) -> None:
        self.host.give_up_write(number)

    @rule(number=ENGINES, times=st.integers(1, 5))
    def hear(self, number: int, times: int) -> None:
        for _ in range(min(times, len(self.host.engines[number].up))):
            self.host.hear(number)

    @rule(number=ENGINES, times=st.integers(1, 5))
    def tell(self, number: int, times: int) -> None:
        for _ in range(min(times, len(self.host.engines[number].down))):
            self.host.tell(number)

    @rule()
    def lend(self) -> None:
        self.host.lend()

    @rule()
    def supply(self) -> None:
        self.host.supply()

    @rule()
    def wait(self) -> None:
        self.host.now_ns += FIND_TIMEOUT_NS + 1

    @rule(number=ENGINES)
    def engine_is_reset(self, number: int) -> None:
        engine = self.host.engines[number]
        engine.client.reset(engine.reads)
        assert not engine.client.take(1)
        assert not any(
            engine.client.slots_of(name) for name in engine.prompts.keys() - engine.reads.keys()
        )

    @rule(closed=st.booleans())
    def host_cache_is_reset(self, *, closed: bool) -> None:
        self.host.cache.reset(closed=closed)

    @rule(number=ENGINES)
    def link_is_gone_for_the_host_cache(self, number: int) -> None:
        if not self.host.engines[number].cut_there:
            self.host.cut_there(number)

    @rule(number=ENGINES)
    def link_is_gone_for_the_engine(self, number: int) -> None:
        if not self.host.engines[number].cut_here:
            self.host.cut_here(number)

    @rule(number=ENGINES)
    def engine_dies(self, number: int) -> None:
        self.host.kill_engine(number)

    @precondition(lambda self: self.host.memory)
    @rule()
    def host_cache_dies(self) -> None:
        self.host.kill_cache()

    @invariant()
    def nothing_makes_no_sense_to_the_host_cache(self) -> None:
        assert self.host.cache.invalid == 0

    def teardown(self) -> None:
        """When all requests and copies have ended, nothing is kept by anybody."""
        for number, engine in self.host.engines.items():
            for request in list(engine.prompts):
                self.host.end_request(number, request)
            self.host.give_up_write(number)
            self.host.join_again(number)
        self.host.cache.reset()
        self.host.settle()
        cache = self.host.cache
        assert [one.client.kept for one in self.host.engines.values()] == [0, 0, 0]
        assert (cache.blocks.pinned, cache.busy, cache.awaited) == (0, 0, [])
        assert cache.free + cache.lent + len(cache.blocks) == SLOTS


TestClients = ClientMachine.TestCase
TestClients.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)


# -- cases ---------------------------------------------------------------------------------------


@pytest.fixture
def host() -> Host:
    """A host cache whose first engine has stored two blocks."""
    host = Host()
    host.supply()
    host.begin_write(0, 2)
    host.end_write(0, [1, 2])
    host.settle()
    return host


def ask(host: Host, number: int, request: str, prompt: list[int]) -> dict[bytes, int] | None:
    """Ask, and take the answer."""
    engine = host.engines[number]
    engine.prompts[request] = keys_of(prompt)
    engine.client.find(request, keys_of(prompt))
    host.settle()
    return engine.client.find(request, keys_of(prompt))


def test_another_engine_finds_what_one_has_stored(host: Host) -> None:
    client = host.engines[1].client
    assert client.find("a", keys_of([1, 2, 3])) is None
    assert client.waits()
    host.now_ns += 5
    host.settle()
    assert not client.waits()
    assert (client.find("a", keys_of([1, 2, 3])) or {}).keys() == set(keys_of([1, 2]))
    assert client.copies(1, prefill=False).waited_s == 5e-9
    assert (host.cache.blocks.pinned, client.kept) == (2, 1)
    client.end("a")
    host.settle()
    assert (host.cache.blocks.pinned, client.kept) == (0, 0)


def test_after_a_reset_only_what_is_being_loaded_is_read(host: Host) -> None:
    client = host.engines[1].client
    for request in ("a", "b"):
        assert len(ask(host, 1, request, [1, 2]) or {}) == 2
    assert client.find("c", keys_of([1, 2])) is None
    client.reset(reading={"a"})
    host.settle()
    assert [len(client.find(name, keys_of([1, 2])) or {}) for name in "abc"] == [2, 0, 0]
    for name in "abc":
        client.end(name)
    host.settle()
    assert (host.cache.blocks.pinned, client.kept, host.cache.invalid) == (0, 0, 0)


def test_after_a_reset_all_that_an_engine_computes_is_stored(host: Host) -> None:
    """A regression: as many blocks as slots were lent to it were left out."""
    host.supply()
    host.cache.reset(closed=True)
    host.engines[0].client.reset(())
    host.settle()
    host.cache.reset()
    host.supply()
    host.begin_write(0, 2)
    host.end_write(0, [1, 2])
    host.settle()
    assert len(ask(host, 1, "a", [1, 2]) or {}) == 2


def test_a_late_answer_to_an_earlier_question_is_not_one_to_the_next(host: Host) -> None:
    """A regression: the request reads by the second answer, and the first one's end unpinned it."""
    client = host.engines[1].client
    assert client.find("a", keys_of([1, 2])) is None
    client.end("a")  # it moves away, and comes back with a longer prompt
    assert client.find("a", keys_of([1, 2, 3])) is None
    host.settle()
    assert set(client.slots_of("a")) == set(keys_of([1, 2]))
    assert host.cache.blocks.pinned == 2
    client.end("a")
    host.settle()
    assert host.cache.blocks.pinned == 0


def test_nobody_waits_for_a_host_cache_that_does_not_answer(host: Host) -> None:
    client = host.engines[1].client
    assert client.find("a", keys_of([1, 2])) is None
    host.now_ns += FIND_TIMEOUT_NS + 1
    assert client.find("a", keys_of([1, 2])) == {}
    assert (client.waits(), client.answers, client.dropped[LATE]) == (False, False, 2)
    assert client.find("b", keys_of([1, 2])) == {}, "the next one does not wait at all"
    host.settle()
    assert client.answers
    assert host.cache.blocks.pinned == 0, "the late answer is given back"
    assert client.find("a", keys_of([1, 2])) == {}, "it has gone on without"


def test_a_question_that_finds_no_room_on_the_link_is_not_awaited(host: Host) -> None:
    client = host.engines[1].client
    client.connect(lambda _: False, lambda _: True)
    assert client.find("a", keys_of([1])) == {}
    assert client.dropped[LATE] == 1


def lost_while_reading(client: CacheClient, *requests: str) -> list[Message]:
    """Requests read slot 3 as the host cache dies and a new one starts; what is sent from then."""
    sent: list[Message] = []
    client.connect(lambda message: not sent.append(message), lambda one: not sent.append(one))
    client.opened()
    for request in requests:
        client.find(request, [b"k"])
        question = sent[-1]
        assert isinstance(question, FindBlocks)
        client.apply(BlocksFound(question.name, slots.pack([3])))
    client.lost()
    client.opened()
    opened = sent[-1]
    assert isinstance(opened, OpenCache)
    assert list(slots.unpack(opened.busy)) == [3]
    sent.clear()
    return sent


def test_a_new_host_cache_gets_a_slot_when_its_last_reader_has_ended() -> None:
    client = CacheClient(SLOT_BYTES, "flat", BLOCK_TOKENS, SLOTS)
    sent = lost_while_reading(client, "a", "b")
    client.end("a")
    assert not sent, "the other one still reads it"
    client.end("b")
    assert sent == [SlotsReturned(slots.pack([3]))]
    assert client.kept == 0


def test_nobody_waits_for_a_host_cache_that_is_gone() -> None:
    client = CacheClient(SLOT_BYTES, "flat", BLOCK_TOKENS, SLOTS)
    client.connect(lambda _: True, lambda _: True)
    client.opened()
    assert client.find("a", [b"k"]) is None
    assert client.waits()
    client.lost()
    assert not client.waits()


def test_who_asked_earlier_is_told_apart() -> None:
    client = CacheClient(SLOT_BYTES, "flat", BLOCK_TOKENS, SLOTS)
    client.connect(lambda _: True, lambda _: True)
    client.opened()
    assert (client.asked, client.waits()) == (0, False)
    client.find("a", [b"k"])
    assert (client.asked, client.waits(0), client.waits(1)) == (1, True, False)
    client.find("b", [b"k"])
    client.find("b", [b"k"])
    assert (client.asked, client.waits(1), client.waits(2)) == (2, True, False)


def test_without_a_host_cache_nothing_is_stored_or_found(host: Host) -> None:
    client = host.engines[1].client
    client.lost()
    assert (client.take(2), client.dropped[NO_CACHE], client.room_tokens) == ([], 2, 0)
    assert client.find("a", keys_of([1])) == {}
    client.opened()
    assert client.room_tokens == SLOTS // 2 * BLOCK_TOKENS
    assert client.find("b", keys_of([1])) is None
    client.apply(CacheRefused("another model."))
    assert client.find("b", keys_of([1])) == {}, "it will not be answered"
    assert client.copies(1, prefill=False).refused
    assert (client.refused, client.take(1), client.room_tokens) == ("another model.", [], 0)
    client.lost()
    client.opened()
    assert not client.copies(1, prefill=False).refused, "another host cache may take it"


def test_what_finds_no_slot_is_counted(host: Host) -> None:
    client = host.engines[1].client
    host.begin_write(1, 50)
    assert client.dropped[NO_SLOT] == 50 - len(host.engines[1].writes)
    host.give_up_write(1)


def test_of_a_written_batch_only_what_this_host_cache_lent_is_told(host: Host) -> None:
    client = host.engines[0].client
    host.supply()
    host.begin_write(0, 1)
    host.kill_cache()
    host.supply()
    host.begin_write(0, 1)
    old, new = host.engines[0].writes
    client.written([b"old", b"new"], [old, new], *two_names())
    host.engines[0].writes = []
    (_, told) = host.engines[0].up
    assert told == BlocksWritten([b"new"], slots.pack([new]), *(one[8:] for one in two_names()))
    host.settle()
    assert (host.cache.busy, host.cache.written, host.cache.invalid) == (0, 1, 0)


def two_names() -> tuple[bytes, bytes]:
    return (3).to_bytes(8, "little") + (4).to_bytes(8, "little"), bytes(16)


def fill(host: Host, number: int) -> None:
    """An engine stores so much that all that nobody uses is evicted."""
    for turn in range(4 * SLOTS):
        host.supply()
        host.begin_write(number, 1)
        host.end_write(number, [turn + 10])


def test_what_is_read_stays_where_it_is_while_links_are_made_anew(host: Host) -> None:
    assert ask(host, 1, "r", [1, 2])
    host.begin_read(1, "r")
    host.cut_there(1)
    fill(host, 2)
    host.cut_here(1)
    fill(host, 2)
    assert ask(host, 2, "s", [1, 2])
    host.end_request(2, "s")
    assert host.cache.blocks.pinned == 2
    host.end_request(1, "r")
    host.settle()
    assert (host.cache.blocks.pinned, host.cache.invalid) == (0, 0)
    fill(host, 2)
    assert not ask(host, 2, "t", [1, 2])


@pytest.mark.parametrize("told", ["here", "there"])
def test_what_is_written_is_not_lent_to_others_while_links_are_made_anew(
    host: Host, told: str
) -> None:
    host.supply()
    if told == "there":
        host.cut_there(1)
    host.begin_write(1, 2)
    if told == "here":
        host.cut_there(1)
    host.now_ns += 2 * REST_NS
    fill(host, 2)
    host.cut_here(1)
    host.now_ns += 2 * REST_NS
    fill(host, 2)
    assert host.cache.busy == 2
    host.end_write(1, [5, 5])
    host.settle()
    assert (host.cache.busy, host.cache.invalid) == (0, 0)
    assert not ask(host, 2, "r", [5, 5])


def test_an_engine_that_dies_without_a_link_leaves_its_slots(host: Host) -> None:
    assert ask(host, 1, "r", [1, 2])
    host.supply()
    host.cut_there(1)
    lent = host.cache.lent
    host.cache.gone(name(1))
    assert host.cache.blocks.pinned == 0
    assert host.cache.lent < lent
