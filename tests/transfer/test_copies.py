"""Arenas and the copies to and from them, without engines."""

from __future__ import annotations

import os
import queue
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from dynamo_cli.engines.vllm.transfer import copier as copier_module
from dynamo_cli.engines.vllm.transfer.arena import (
    GONE,
    NOT_WRITTEN,
    OTHER_LAYOUT,
    STAMPS,
    TAKEN_BACK,
    WRITING,
    Arena,
    ArenaRef,
)
from dynamo_cli.engines.vllm.transfer.copier import FAILED, Copier, Copy, Done
from dynamo_cli.engines.vllm.transfer.planes import Planes, planes_of
from dynamo_cli.errors import ModelError

BLOCKS, SLOTS = 10, 6
SHAPE = (BLOCKS, 2, 4, 8)
DONE_S = 10.0


def cache(seed: int, shape: tuple[int, ...] = SHAPE) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {f"layer.{index}": torch.rand(shape, generator=generator) for index in range(3)}


class Side:
    """A cache with its copier and, if it saves, its arena."""

    def __init__(self, caches: dict[str, torch.Tensor], *, saves: bool = False) -> None:
        self.caches = caches
        planes = planes_of(caches, BLOCKS)
        self.arena = Arena(planes.layout, planes.slot_bytes, SLOTS) if saves else None
        self.copier = Copier(planes, self.arena)

    @property
    def ref(self) -> ArenaRef:
        assert self.arena is not None
        return self.arena.ref

    def begin(
        self, blocks: list[int], slots: list[int], base: int = STAMPS, ref: ArenaRef | None = None
    ) -> None:
        now = time.monotonic_ns()
        self.copier.submit(Copy(f"r{base}", f"t{base}", blocks, slots, base, ref, now))

    def end(self) -> Done:
        """Wait for the end of the only copy in flight."""
        deadline = time.monotonic() + DONE_S
        while time.monotonic() < deadline:
            for done in self.copier.done():
                return done
            time.sleep(0.001)
        raise AssertionError("no copy came to an end")

    def close(self) -> None:
        self.copier.close()
        if self.arena is not None:
            self.arena.close()


@contextmanager
def sides(saved: dict[str, torch.Tensor], loaded: dict[str, torch.Tensor]) -> Iterator[list[Side]]:
    both = [Side(saved, saves=True), Side(loaded)]
    try:
        yield both
    finally:
        for side in both:
            side.close()


@pytest.fixture
def pair() -> Iterator[list[Side]]:
    with sides(cache(1), cache(2)) as both:
        yield both


def test_blocks_arrive_where_they_should_and_nowhere_else(pair: list[Side]) -> None:
    source, target = pair
    before = {name: tensor.clone() for name, tensor in target.caches.items()}
    source.begin([7, 2, 5], [0, 4, 3])
    assert source.end().failed == ""
    target.begin([9, 1], [4, 3], ref=source.ref)
    assert target.end().failed == ""
    for name, tensor in target.caches.items():
        expected = before[name]
        expected[9], expected[1] = source.caches[name][2], source.caches[name][5]
        assert torch.equal(tensor, expected)
    slot_bytes = 3 * 2 * 4 * 8 * 4
    assert source.copier.stats.nbytes == {"save": 3 * slot_bytes}
    assert target.copier.stats.nbytes == {"load": 2 * slot_bytes}


@pytest.mark.parametrize("slots", [[0, 1, 2, 3, 4], [5, 4, 3, 2, 1], [1, 2, 5, 0, 4]])
@pytest.mark.parametrize("batch_blocks", [2, 3, 100])
def test_many_blocks_go_in_batches(
    monkeypatch: pytest.MonkeyPatch, slots: list[int], batch_blocks: int
) -> None:
    monkeypatch.setattr(copier_module, "BATCH_BYTES", batch_blocks * 3 * 2 * 4 * 8 * 4)
    with sides(cache(1), cache(2)) as (source, target):
        source.begin([0, 1, 2, 3, 4], slots)
        target.begin([5, 6, 7, 8, 9], slots, ref=source.ref)
        assert (source.end().failed, target.end().failed) == ("", "")
        for name, tensor in target.caches.items():
            assert torch.equal(tensor[5:], source.caches[name][:5])
        memory = torch.zeros(SLOTS, 3 * 2 * 4 * 8 // 2, dtype=torch.int64)
        copy = Copy("r", "t", [0, 1, 2, 3, 4], slots, STAMPS, None, 0)
        sizes = [len(blocks) for blocks, _ in copier_module._batches(copy, memory)]
        assert max(sizes) <= batch_blocks
        assert sum(sizes) == len(slots)


def test_a_load_waits_until_the_blocks_are_written(
    pair: list[Side], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = pair
    looks: queue.SimpleQueue[None] = queue.SimpleQueue()
    real = copier_module._written

    def look(*args: Any) -> bool:
        looks.put(None)
        return real(*args)

    monkeypatch.setattr(copier_module, "_written", look)
    target.begin([0], [2], ref=source.ref)
    for _ in range(2):  # the second look comes after the first has found nothing
        looks.get(timeout=DONE_S)
    assert list(target.copier.done()) == []
    source.begin([3], [2])
    assert target.end().failed == ""
    assert torch.equal(target.caches["layer.0"][0], source.caches["layer.0"][3])


def test_one_that_waits_does_not_keep_others_back(pair: list[Side]) -> None:
    source, target = pair
    target.begin([0], [2], ref=source.ref)
    source.begin([3], [1], base=2 * STAMPS)
    target.begin([4], [1], base=2 * STAMPS, ref=source.ref)
    assert target.end().copy.base == 2 * STAMPS


def test_a_load_does_not_wait_for_ever(pair: list[Side], monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = pair
    monkeypatch.setattr(copier_module, "WAIT_LIMIT_NS", 1_000_000)
    target.begin([0], [2], ref=source.ref)
    assert target.end().failed == NOT_WRITTEN


def test_slots_that_went_to_somebody_else_are_noticed(pair: list[Side]) -> None:
    source, target = pair
    source.begin([3], [2], base=2 * STAMPS)
    source.end()
    target.begin([0], [2], base=STAMPS, ref=source.ref)
    assert target.end().failed == TAKEN_BACK
    assert target.copier.stats.failures == {TAKEN_BACK: 1}
    assert target.copier.stats.copies == {}


def test_slots_that_change_during_the_copy_are_noticed(
    pair: list[Side], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = pair
    assert source.arena is not None
    stamps = source.arena.stamps
    source.begin([3], [2])
    source.end()
    write = copier_module._Cache.write

    def late(*args: Any) -> None:
        write(*args)
        stamps[2] = 2 * STAMPS + WRITING

    monkeypatch.setattr(copier_module._Cache, "write", late)
    target.begin([0], [2], ref=source.ref)
    assert target.end().failed == TAKEN_BACK


def test_a_save_that_fails_fails_the_load(pair: list[Side]) -> None:
    source, target = pair
    source.begin([BLOCKS + 90], [2])
    assert source.end().failed == FAILED
    target.begin([0], [2], ref=source.ref)
    assert target.end().failed == TAKEN_BACK
    source.begin([3], [2], base=2 * STAMPS)
    assert source.end().failed == ""


def test_an_arena_that_is_gone(pair: list[Side]) -> None:
    source, target = pair
    ref = source.ref
    other_life = ArenaRef(ref.pid, ref.fd, "00" * 16)
    target.begin([0], [0], ref=other_life)
    assert target.end().failed == GONE
    with Path(os.devnull).open() as other_file:
        target.begin([0], [0], ref=ArenaRef(ref.pid, other_file.fileno(), ref.arena_id))
        assert target.end().failed == GONE
    empty = os.memfd_create("empty")
    target.begin([0], [0], ref=ArenaRef(ref.pid, empty, ref.arena_id))
    assert target.end().failed == GONE
    os.close(empty)
    target.begin([0], [0], ref=ArenaRef(ref.pid, 1_000_000, ref.arena_id))
    assert target.end().failed == GONE


def test_the_writer_s_death_ends_the_waiting(pair: list[Side]) -> None:
    source, target = pair
    assert source.arena is not None
    source.begin([3], [1], base=2 * STAMPS)
    source.end()
    target.begin([0], [2], ref=source.ref)
    target.begin([4], [1], base=2 * STAMPS, ref=source.ref)
    assert target.end().failed == ""  # the arena is mapped now
    ref, source.arena = source.ref, source.arena.close()
    assert target.end().failed == GONE
    target.begin([5], [1], base=2 * STAMPS, ref=ref)
    assert target.end().failed == ""  # written slots stay readable


@pytest.mark.parametrize("busy", [True, False])
def test_what_the_dead_leave_behind_is_let_go(
    pair: list[Side], monkeypatch: pytest.MonkeyPatch, busy: bool
) -> None:
    source, target = pair
    if not busy:
        monkeypatch.setattr(copier_module, "TIDY_S", 0.01)
    source.begin([3], [1])
    target.begin([4], [1], ref=source.ref)
    assert target.end().failed == ""
    assert target.copier._remote.keys() == {source.ref}
    with sides(cache(3), cache(4)) as (later, _):
        assert source.arena is not None
        source.arena.close()
        source.arena = None
        if busy:
            later.begin([3], [1])
            target.begin([4], [1], ref=later.ref)
            assert target.end().failed == ""
        deadline = time.monotonic() + DONE_S
        while len(target.copier._remote) > busy and time.monotonic() < deadline:
            time.sleep(0.01)
        assert target.copier._remote.keys() == ({later.ref} if busy else set())


def test_caches_of_another_shape_are_refused() -> None:
    wider = {name: tensor.repeat(1, 2, 1, 1) for name, tensor in cache(2).items()}
    with sides(cache(1), wider) as (source, target):
        source.begin([3], [1])
        target.begin([4], [1], ref=source.ref)
        assert target.end().failed == OTHER_LAYOUT


def test_a_block_s_inner_order_does_not_matter() -> None:
    def turned(seed: int) -> dict[str, torch.Tensor]:
        return {name: tensor.permute(0, 2, 1, 3) for name, tensor in cache(seed).items()}

    with sides(turned(1), turned(2)) as (source, target):
        source.begin([3], [1])
        target.begin([4], [1], ref=source.ref)
        assert target.end().failed == ""
        assert torch.equal(target.caches["layer.1"][4], source.caches["layer.1"][3])
    # The same shape, but in another order: the bytes differ.
    same_shape = {name: tensor.contiguous() for name, tensor in turned(2).items()}
    assert planes_of(same_shape, BLOCKS).layout != planes_of(turned(2), BLOCKS).layout


def test_keys_and_values_in_halves() -> None:
    halves = {name: tensor.transpose(0, 1).contiguous() for name, tensor in cache(1).items()}
    planes = planes_of(halves, BLOCKS)
    assert len(planes.tensors) == 6
    assert planes.slot_bytes == planes_of(cache(1), BLOCKS).slot_bytes
    planes.tensors[1][7] = 0
    assert not halves["layer.0"][1, 7].any()
    assert halves["layer.0"][0, 7].all()


def test_layers_side_by_side_in_one_memory() -> None:
    memory = torch.rand(BLOCKS, 3, 4, 8)
    planes = planes_of({f"layer.{index}": memory[:, index] for index in range(3)}, BLOCKS)
    planes.tensors[1][7] = 0
    assert not memory[7, 1].any()
    assert memory[7, 0].all()
    assert memory[7, 2].all()


@pytest.mark.parametrize(
    "tensor",
    [
        torch.rand(BLOCKS, 2, 4, 16)[..., :8],  # a block has gaps
        torch.rand(BLOCKS - 1, 2, 4, 8).expand(BLOCKS - 1, 2, 4, 8),  # another number of blocks
        torch.rand(BLOCKS, 3).to(torch.uint8),  # a block is not a whole number of words
        torch.rand(BLOCKS),
    ],
)
def test_other_layouts_are_refused(tensor: torch.Tensor) -> None:
    with pytest.raises(ModelError, match="--kv-transfer"):
        planes_of({"layer": tensor}, BLOCKS)


def test_no_descriptor_and_no_mapping_stays() -> None:
    def held() -> tuple[int, int]:
        maps = Path("/proc/self/maps").read_text()
        return len(list(Path("/proc/self/fd").iterdir())), maps.count("kv-arena")

    before = held()
    for _ in range(3):
        with sides(cache(1), cache(2)) as (source, target):
            source.begin([3], [1])
            target.begin([4], [1], ref=source.ref)
            target.end()
    del source, target
    assert held() == before


def test_planes_share_the_cache_s_memory() -> None:
    caches = cache(1)
    planes: Planes = planes_of(caches, BLOCKS)
    assert [plane.data_ptr() for plane in planes.tensors] == [
        caches[name].data_ptr() for name in sorted(caches)
    ]
