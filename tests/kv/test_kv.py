"""Hashes, holdings and index, compared with simple models."""

from __future__ import annotations

import gc
import random
import struct
import tracemalloc
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from xxhash import xxh3_64_intdigest

from dynamo_cli.kv import hashes
from dynamo_cli.kv.hashes import ROOT
from dynamo_cli.kv.holdings import PARTIAL_BLOCK, UNKNOWN_PARENT, UNKNOWN_REMOVAL, Holdings
from dynamo_cli.kv.index import PrefixIndex, bits, workers_of

BLOCK = 4

# -- hashes ----------------------------------------------------------------------------------


def test_a_hash_names_the_tokens_of_a_block_and_all_before_it() -> None:
    first = xxh3_64_intdigest(struct.pack("<4I", 1, 2, 3, 4), 0)
    second = xxh3_64_intdigest(struct.pack("<4I", 5, 6, 7, 8), first)
    tokens = hashes.pack_tokens([1, 2, 3, 4, 5, 6, 7, 8, 9])
    assert hashes.chain(tokens, BLOCK) == [first, second]
    assert hashes.chain(hashes.pack_tokens([5, 6, 7, 8]), BLOCK) != [second]
    assert hashes.chain(hashes.pack_tokens([5, 6, 7, 8]), BLOCK, parent=first) == [second]


def test_a_prompt_shorter_than_a_block_has_no_hash() -> None:
    assert hashes.chain(b"", BLOCK) == []
    assert hashes.chain(hashes.pack_tokens([1, 2, 3]), BLOCK) == []


def test_extra_keys_count_from_their_block_on() -> None:
    tokens = hashes.pack_tokens(range(12))
    plain = hashes.chain(tokens, BLOCK)
    assert hashes.chain(tokens, BLOCK, [None, None, None]) == plain
    salted = hashes.chain(tokens, BLOCK, [("salt",), None, None])
    image = hashes.chain(tokens, BLOCK, [None, (("cat.png", 3),), None])
    assert not set(salted) & set(plain)
    assert image[0] == plain[0]
    assert not set(image[1:]) & set(plain[1:])
    assert salted != hashes.chain(tokens, BLOCK, [("other",), None, None])


@given(st.lists(st.integers(0, 2**31 - 1)))
def test_packed_tokens_come_back(tokens: list[int]) -> None:
    assert hashes.unpack_tokens(hashes.pack_tokens(tokens)) == tokens


@given(st.lists(st.integers(0, 2**64 - 1)))
def test_packed_hashes_come_back(values: list[int]) -> None:
    assert list(hashes.unpack(hashes.pack(values))) == values


# -- holdings --------------------------------------------------------------------------------


def prompt(*blocks: int) -> list[int]:
    """Return token ids: block `b` is b, b, b, b."""
    return [block for block in blocks for _ in range(BLOCK)]


def chain(*blocks: int) -> list[int]:
    return hashes.chain(hashes.pack_tokens(prompt(*blocks)), BLOCK)


def test_events_become_sequence_hashes() -> None:
    held = Holdings(BLOCK)
    held.store(["x1", "x2"], None, prompt(1, 2))
    held.store(["x3"], "x2", prompt(3))
    assert held.take().stored == chain(1, 2, 3)
    held.remove(["x3"])
    change = held.take()
    assert (change.stored, change.removed) == ([], chain(1, 2, 3)[2:])
    assert held.all() == chain(1, 2)
    assert not held.take()


def test_a_block_that_is_there_twice_is_gone_when_both_are() -> None:
    held = Holdings(BLOCK)
    held.store(["x1"], None, prompt(1))
    held.store(["x1"], None, prompt(1))
    held.remove(["x1"])
    assert held.take().stored == chain(1)
    held.remove(["x1"])
    assert held.take().removed == chain(1)


def test_what_comes_and_goes_between_two_looks_is_no_change() -> None:
    held = Holdings(BLOCK)
    held.store(["x1"], None, prompt(1))
    held.remove(["x1"])
    assert not held.take()
    held.store(["x1"], None, prompt(1))
    held.take()
    held.remove(["x1"])
    held.store(["x1"], None, prompt(1))
    assert not held.take()


def test_a_block_without_its_parent_waits_for_it() -> None:
    held = Holdings(BLOCK)
    held.store(["x1", "x2", "x3"], None, prompt(1, 2, 3))
    held.take()
    held.remove(["x2"])
    assert sorted(held.take().removed) == sorted(chain(1, 2, 3)[1:])
    held.store(["x2"], "x1", prompt(2))
    assert sorted(held.take().stored) == sorted(chain(1, 2, 3)[1:])


@pytest.mark.parametrize("gone", ["the parent was never there", "the parent went first"])
def test_of_blocks_whose_parent_does_not_come_nothing_is_left(gone: str) -> None:
    """A host cache has such blocks whenever it had no slot for the beginning of a prompt."""
    held = Holdings(BLOCK)
    sizes = set()
    for number in range(1, 50):
        parent, child = 2 * number, 2 * number + 1
        if gone == "the parent went first":
            held.add(parent, parent, ROOT)
        held.add(child, child, parent)
        if gone == "the parent went first":
            held.remove([parent])
        held.remove([child])
        sizes.add(sum(len(part) for part in (held._blocks, held._names, held._orphans)))
        held.take()
    assert sizes == {0}
    assert not held.unknown


def test_clearing_removes_all() -> None:
    held = Holdings(BLOCK)
    held.store(["x1", "x2"], None, prompt(1, 2))
    held.take()
    held.clear()
    assert sorted(held.take().removed) == sorted(chain(1, 2))
    assert held.all() == []


def test_what_makes_no_sense_is_counted() -> None:
    held = Holdings(BLOCK)
    held.store(["x2", "x3"], "x1", prompt(2, 3))
    held.remove(["x9"])
    held.store(["x1"], None, [1, 2])
    assert held.unknown == Counter({UNKNOWN_PARENT: 2, UNKNOWN_REMOVAL: 1, PARTIAL_BLOCK: 1})
    assert not held.take()


class HoldingsMachine(RuleBasedStateMachine):
    """Compares the holdings of a random engine with a recount."""

    def __init__(self) -> None:
        super().__init__()
        self.held = Holdings(BLOCK)
        self.copies: Counter[tuple[int, ...]] = Counter()
        self.public: set[int] = set()

    @rule(blocks=st.lists(st.integers(1, 3), min_size=1, max_size=4), start=st.integers(0, 3))
    def store(self, blocks: list[int], start: int) -> None:
        path = tuple(blocks)
        start = min(start, len(path) - 1)
        if start and not self.copies[path[:start]]:
            return
        names = [path[: i + 1] for i in range(start, len(path))]
        self.held.store(names, path[:start] or None, prompt(*path[start:]))
        self.copies.update(names)

    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        there = sorted(+self.copies)
        if there:
            path = data.draw(st.sampled_from(there))
            self.held.remove([path])
            self.copies[path] -= 1

    @rule()
    def clear(self) -> None:
        self.held.clear()
        self.copies.clear()

    @rule()
    def take(self) -> None:
        change = self.held.take()
        assert not set(change.stored) & self.public
        assert set(change.removed) <= self.public
        self.public |= set(change.stored)
        self.public -= set(change.removed)
        assert self.public == self.expected()

    def expected(self) -> set[int]:
        return {
            chain(*path)[-1]
            for path in +self.copies
            if all(self.copies[path[:depth]] for depth in range(1, len(path)))
        }

    @invariant()
    def agrees(self) -> None:
        assert set(self.held.all()) == self.expected()
        assert not self.held.unknown


HoldingsMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=30)
TestHoldings = HoldingsMachine.TestCase

# -- index -----------------------------------------------------------------------------------


class IndexMachine(RuleBasedStateMachine):
    """Compares the index with a set for each worker."""

    WORKERS = (0, 1, 5, 63)

    def __init__(self) -> None:
        super().__init__()
        self.index = PrefixIndex()
        self.sets: dict[int, set[tuple[int, ...]]] = {worker: set() for worker in self.WORKERS}

    @rule(worker=st.sampled_from(WORKERS), path=st.lists(st.integers(1, 3), max_size=5))
    def store(self, worker: int, path: list[int]) -> None:
        self.index.store(worker, chain(*path))
        self.sets[worker] |= {tuple(path[: depth + 1]) for depth in range(len(path))}

    @rule(worker=st.sampled_from(WORKERS), path=st.lists(st.integers(1, 3), min_size=1, max_size=4))
    def remove_below(self, worker: int, path: list[int]) -> None:
        gone = {held for held in self.sets[worker] if held[: len(path)] == tuple(path)}
        self.index.remove(worker, [chain(*held)[-1] for held in sorted(gone)])
        self.sets[worker] -= gone

    @rule(worker=st.sampled_from(WORKERS))
    def drop(self, worker: int) -> None:
        self.index.drop(worker)
        self.sets[worker].clear()

    @rule(path=st.lists(st.integers(1, 3), max_size=6))
    def look_up(self, path: list[int]) -> None:
        expected = {}
        for worker, held in self.sets.items():
            depth = 0
            while depth < len(path) and tuple(path[: depth + 1]) in held:
                depth += 1
            if depth:
                expected[worker] = depth
        packed = hashes.unpack(hashes.pack(chain(*path)))
        assert self.index.leading(packed) == expected

    @invariant()
    def counts(self) -> None:
        assert +self.index.blocks == Counter({w: len(s) for w, s in self.sets.items() if s})
        assert len(self.index) == len(set().union(*self.sets.values()))
        assert self.index.unknown_removals == 0


IndexMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=30)
TestIndex = IndexMachine.TestCase


def test_a_removal_of_what_is_not_held_is_counted() -> None:
    index = PrefixIndex()
    index.store(1, [7])
    index.remove(2, [7, 8])
    assert (index.unknown_removals, len(index)) == (2, 1)


def test_long_prompts_and_many_workers() -> None:
    dice = random.Random(1)
    prompt_blocks = [dice.getrandbits(64) for _ in range(8000)]
    depths = {worker: dice.randrange(1, 8001) for worker in range(0, 1024, 16)}
    index = PrefixIndex()
    for worker, depth in depths.items():
        index.store(worker, prompt_blocks[:depth])
    assert index.leading(prompt_blocks) == depths
    few = list(depths)[:3]
    assert index.leading(prompt_blocks, bits(few)) == {worker: depths[worker] for worker in few}
    deepest_first = [
        (depth, worker)
        for depth, group in index.by_depth(prompt_blocks)
        for worker in workers_of(group)
    ]
    assert deepest_first == sorted(
        ((depth, worker) for worker, depth in depths.items()), key=lambda pair: (-pair[0], pair[1])
    )


@pytest.mark.parametrize("batch", [1, 64])
def test_the_memory_of_a_block_hardly_grows_with_the_number_of_workers(batch: int) -> None:
    """An integer with one bit for each worker is shared by neighbours with the same holders."""
    dice = random.Random(1)
    batches = [[dice.getrandbits(64) for _ in range(batch)] for _ in range(8192 // batch)]
    used = []
    for first in (0, 1000):
        tracemalloc.start()
        index = PrefixIndex()
        for blocks in batches:
            for worker in range(first, first + (4 if batch > 1 else 1)):
                index.store(worker, blocks)
        used.append(tracemalloc.get_traced_memory()[0] / 8192)
        tracemalloc.stop()
    assert used[1] - used[0] < 20


def test_garbage_collection_does_not_look_at_blocks() -> None:
    """Ten thousands of them would make it stop an engine for milliseconds."""
    cache = Holdings(4)
    before = len(gc.get_objects())
    for start in range(0, 4000, 8):
        cache.store([f"{start}a", f"{start}b"], None, list(range(start, start + 8)))
    assert len(cache.all()) == 1000
    assert len(gc.get_objects()) - before < 100
