"""Who may use the host cache, and how many slots each engine is lent."""

from __future__ import annotations

import time

import pytest

from dynamo_cli.host_cache.opened import MAX_LENT
from dynamo_cli.host_cache.resting import REST_NS
from dynamo_cli.host_cache.state import HostCache
from dynamo_cli.messages.host_cache import MISSING
from dynamo_cli.topology import ProcessId, Role

ONE, TWO = ProcessId(Role.WORKER, 0), ProcessId(Role.WORKER, 1)
SLOT_BYTES = 100


def cache(slots: int, *engines: ProcessId) -> HostCache:
    made = HostCache(slots * SLOT_BYTES + 99, time.monotonic_ns)
    made.all_linked()
    for engine in engines:
        made.linked(engine)
        assert made.open(engine, SLOT_BYTES, "flat") == ""
    return made


def write(made: HostCache, engine: ProcessId, *keys: bytes) -> list[int]:
    """Write blocks to slots that the engine was lent; returns the slots."""
    slots = sorted(made._engines[engine].lent)[: len(keys)]
    made.wrote(engine, keys, slots)
    return slots


@pytest.mark.parametrize(
    ("slots", "engines", "each"),
    [
        (40, [ONE], 10),
        (40, [ONE, TWO], 5),
        (7, [ONE, TWO], 1),
        (1, [ONE, TWO], 1),
        (100 * MAX_LENT, [ONE], MAX_LENT),
    ],
)
def test_a_quarter_of_the_slots_is_lent(slots: int, engines: list[ProcessId], each: int) -> None:
    made = cache(slots, *engines)
    lent = made.lend()
    assert [len(lent.get(engine, ())) for engine in engines] == [each] * min(
        slots, len(engines)
    ) + [0] * max(0, len(engines) - slots)
    assert made.short == max(0, len(engines) - slots)
    assert made.lent + made.free == slots


def test_an_engine_is_lent_no_more_than_it_asks_for() -> None:
    made = HostCache(400 * SLOT_BYTES, time.monotonic_ns)
    made.all_linked()
    for engine, reserve in ((ONE, 7), (TWO, 0)):
        made.open(engine, SLOT_BYTES, "flat", reserve=reserve)
    assert {engine: len(slots) for engine, slots in made.lend().items()} == {ONE: 7, TWO: 50}


def test_however_much_an_engine_asks_for_there_is_a_limit() -> None:
    made = HostCache(100 * MAX_LENT * SLOT_BYTES, time.monotonic_ns)
    made.all_linked()
    made.open(ONE, SLOT_BYTES, "flat", reserve=2 * MAX_LENT)
    assert len(made.lend()[ONE]) == MAX_LENT


def test_an_engine_gets_new_slots_when_a_quarter_of_its_own_is_used_up() -> None:
    made = cache(40, ONE)
    made.lend()
    write(made, ONE, b"a", b"b")
    assert made.lend() == {}
    write(made, ONE, b"c")
    assert len(made.lend()[ONE]) == 3
    assert made.lend() == {}


def test_blocks_make_room_for_new_ones_but_not_while_they_are_read() -> None:
    made = cache(2, ONE)
    for key in (b"a", b"b"):
        made.lend()
        write(made, ONE, key)
    found = made.find(ONE, "r", [b"a", b"b", b"c"])
    assert found is not None
    assert (set(found[:2]), found[2]) == ({0, 1}, MISSING)
    assert (made.lend(), made.short) == ({}, 1)
    assert (made.lend(), made.short) == ({}, 1), "it is counted once"
    made.read(ONE, "r")
    assert len(made.lend()[ONE]) == 1
    assert (made.evicted, made.wanted, made.found) == (1, 3, 2)
    assert made.blocks.get(b"b") is None, "the end of the prompt goes first"


def test_a_block_that_is_there_already_leaves_its_slot_empty() -> None:
    made = cache(16, ONE, TWO)
    made.lend()
    write(made, ONE, b"a")
    kept = made.find(TWO, "r", [b"a"])
    write(made, TWO, b"a")
    assert made.find(TWO, "s", [b"a"]) == kept
    assert (made.written, made.duplicates, made.free + made.lent) == (2, 1, 15)


def test_a_reset_forgets_all_blocks_and_what_is_being_written() -> None:
    made = cache(16, ONE, TWO)
    made.lend()
    write(made, ONE, b"a", b"b")
    (old, *_) = sorted(made._engines[TWO].lent)
    assert made.reset()
    assert made.find(ONE, "r", [b"a", b"b"]) == [MISSING, MISSING]
    made.wrote(TWO, [b"c"], [old])
    assert made.find(ONE, "s", [b"c"]) == [MISSING], "it was computed before"
    new = made.lend()[ONE]
    made.wrote(ONE, [b"a"], new[:1])
    assert made.find(TWO, "r", [b"a"]) == new[:1]
    assert made.free + made.lent + len(made.blocks) == 16
    assert not made.reset(), "it is being read"
    made.read(TWO, "r")
    assert made.reset()


@pytest.mark.parametrize("returned", [False, True])
def test_after_a_reset_a_slot_is_left_out_once(*, returned: bool) -> None:
    made = cache(4, ONE)
    (slot,) = made.lend()[ONE]
    assert made.reset()
    if returned:
        made.returned(ONE, [slot])
    else:
        made.wrote(ONE, [b"old"], [slot])
        assert made.blocks.get(b"old") is None
    assert made.lend() == {ONE: [slot]}
    made.wrote(ONE, [b"new"], [slot])
    assert made.find(ONE, "r", [b"new"]) == [slot]


def test_while_engines_are_reset_no_block_passes() -> None:
    """A regression: an engine that had been reset got old blocks of one that had not."""
    made = cache(16, ONE, TWO)
    made.lend()
    writing, waiting = made._engines[TWO].lent
    assert made.reset(closed=True)
    write(made, ONE, b"of one that was not reset yet")
    made.returned(TWO, [waiting])
    assert made.lend() == {}, "what is lent now would count as old at the next reset"
    assert made.find(TWO, "r", [b"of one that was not reset yet"]) == [MISSING]
    assert made.reset()
    first, *_ = made.lend()[TWO]
    made.wrote(TWO, [b"old", b"new"], [writing, first])
    assert made.find(ONE, "r", [b"old", b"new"]) == [MISSING, first]
    assert made.free + made.lent + len(made.blocks) == 16


def test_what_is_read_while_engines_are_reset_is_not_found() -> None:
    made = cache(8, ONE, TWO)
    made.lend()
    write(made, ONE, b"old")
    made.find(ONE, "r", [b"old"])
    assert not made.reset(closed=True)
    assert made.find(TWO, "s", [b"old"]) == [MISSING]
    made.read(ONE, "r")
    assert made.reset()
    assert made.find(TWO, "s", [b"old"]) == [MISSING]


def test_an_engine_that_starts_again_after_a_reset_writes_as_any_other() -> None:
    made = cache(8, ONE)
    made.lend()
    made.reset()
    made.gone(ONE)
    made.open(ONE, SLOT_BYTES, "flat")
    (slot, *_) = made.lend()[ONE]
    made.wrote(ONE, [b"new"], [slot])
    assert made.find(ONE, "r", [b"new"]) == [slot]


def test_all_that_was_found_under_one_name_is_read_until_its_end() -> None:
    made = cache(8, ONE)
    made.lend()
    write(made, ONE, b"a", b"b")
    made.find(ONE, "r", [b"a"])
    made.find(ONE, "r", [b"b"])
    assert made.blocks.pinned == 2
    made.read(ONE, "r")
    assert made.blocks.pinned == 0


@pytest.mark.parametrize(
    ("slot_bytes", "layout", "said"),
    [
        (200, "flat", "its KV blocks take 200 bytes, and those of worker 0 100;"),
        (100, "deep", "its KV blocks are laid out as deep, and those of worker 0 as flat;"),
        (10_000_000, "flat", "one KV block takes 9.54 MiB, and the host cache has"),
        (0, "flat", "one KV block takes 0 MiB"),
    ],
)
def test_an_engine_that_differs_is_refused(slot_bytes: int, layout: str, said: str) -> None:
    made = cache(80, ONE)
    made.linked(TWO)
    assert said in made.open(TWO, slot_bytes, layout)
    assert made.refused == 1
    assert made.find(TWO, "r", [b"a"]) is None
    assert list(made.lend()) == [ONE]


def test_an_engine_that_ends_leaves_nothing_behind() -> None:
    made = cache(40, ONE, TWO)
    made.lend()
    write(made, ONE, b"a")
    made.find(ONE, "r", [b"a"])
    made.gone(ONE)
    assert (made.lent, made.free, made.blocks.pinned, len(made.blocks)) == (5, 34, 0, 1)


def test_slots_of_an_engine_that_has_died_rest_before_they_are_lent_again() -> None:
    now_ns = 0
    made = HostCache(8 * SLOT_BYTES, lambda: now_ns)
    made.linked(ONE)
    made.linked(TWO)
    made.all_linked()
    made.open(ONE, SLOT_BYTES, "flat", [0, 1])
    made.open(TWO, SLOT_BYTES, "flat", [1])
    old = {*made.lend()[ONE], 0}
    made.gone(ONE)
    assert (made.rests, made.busy, made.free) == (True, 1, 8 - 2)
    now_ns = REST_NS - 1
    got: set[int] = set()
    for name in range(8):
        got |= set(made.lend().get(TWO, ()))
        write(made, TWO, bytes([name]))
    assert len(got) == 8 - 3
    assert not got & old
    assert 1 not in got, "the other engine still uses it"
    now_ns = REST_NS
    made.lend()
    assert not made.rests
    assert made.lent + made.free + made.busy + len(made.blocks) == 8


def test_a_slot_that_rests_is_busy_if_another_engine_says_so() -> None:
    now_ns = 0
    made = HostCache(8 * SLOT_BYTES, lambda: now_ns)
    made.linked(ONE)
    made.linked(TWO)
    made.all_linked()
    made.open(ONE, SLOT_BYTES, "flat", [3])
    made.gone(ONE)
    made.open(TWO, SLOT_BYTES, "flat", [3])
    assert (made.busy, made.rests, made.invalid) == (1, False, 0)
    now_ns = 2 * REST_NS
    for name in range(16):
        assert 3 not in made.lend().get(TWO, ())
        write(made, TWO, bytes([name]))


def restarted(*engines: ProcessId) -> HostCache:
    made = HostCache(80 * SLOT_BYTES, time.monotonic_ns)
    for engine in engines:
        made.linked(engine)
    return made


def test_a_new_host_cache_lends_nothing_before_all_engines_have_opened_it() -> None:
    made = restarted(ONE)
    made.open(ONE, SLOT_BYTES, "flat", [3, 4])
    assert made.lend() == {}, "there may be links that it has not heard of yet"
    made.linked(TWO)
    made.all_linked()
    assert (made.lend(), made.awaited) == ({}, ["worker 1"])
    made.open(TWO, SLOT_BYTES, "flat", [4, 5])
    lent = made.lend()
    assert set(lent) == {ONE, TWO}
    assert not {3, 4, 5} & {slot for slots in lent.values() for slot in slots}
    assert made.busy == 3
    made.returned(ONE, [3, 4])
    assert made.busy == 2, "the other one still uses slot 4"
    made.gone(TWO)
    assert made.busy == 0
    assert made.lent + made.free == 80


def test_an_engine_that_died_or_was_refused_is_not_awaited() -> None:
    made = restarted(ONE, TWO)
    made.all_linked()
    made.open(ONE, SLOT_BYTES, "flat")
    made.gone(TWO)
    assert list(made.lend()) == [ONE]
    made = restarted(ONE, TWO)
    made.all_linked()
    made.open(ONE, SLOT_BYTES, "flat")
    made.open(TWO, SLOT_BYTES, "deep")
    assert list(made.lend()) == [ONE]


def test_a_refused_engine_is_awaited_until_it_uses_no_slot_of_the_earlier_host_cache() -> None:
    made = restarted(ONE, TWO)
    made.all_linked()
    made.open(ONE, SLOT_BYTES, "flat")
    made.open(TWO, 2 * SLOT_BYTES, "flat", [1, 2])
    assert made.lend() == {}
    made.returned(TWO, [1])
    assert made.lend() == {}
    made.returned(TWO, [2])
    assert list(made.lend()) == [ONE]


def test_an_engine_that_starts_later_keeps_nobody_waiting() -> None:
    made = cache(80, ONE)
    made.linked(TWO)
    assert list(made.lend()) == [ONE]


def test_what_makes_no_sense_is_counted_and_ignored() -> None:
    made = cache(40, ONE)
    made.linked(TWO)
    made.lend()
    assert made.find(TWO, "r", [b"a"]) is None
    made.wrote(TWO, [b"a"], [0])
    made.read(TWO, "r")
    made.returned(TWO, [0])
    assert made.invalid == 4
    made.open(ONE, SLOT_BYTES, "flat")
    made.wrote(ONE, [b"a"], [50])
    made.wrote(ONE, [b"a", b"b"], [0])
    made.returned(ONE, [50, -1])
    assert made.invalid == 9
    assert (len(made.blocks), made.lent, made.free) == (0, 10, 30)
    made.open(TWO, SLOT_BYTES, "flat", [0, 1_000, 25])
    assert (made.busy, made.invalid) == (1, 11)
