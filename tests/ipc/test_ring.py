"""The ring: tables of what fits, wraps, wakes and is corrupt."""

from __future__ import annotations

import os

import pytest

from dynamo_cli.errors import Corrupt, TooLarge
from dynamo_cli.ipc.link import create_ring
from dynamo_cli.ipc.ring import HEADER_BYTES, MORE, PAD, Ring

from .support import fired, ring

CAPACITY = 256
TAIL_AT, HEAD_AT = 64, 128


def poke(memory: int, offset: int, value: int) -> None:
    """Store a 64-bit word directly in the memory of a ring."""
    os.pwrite(memory, value.to_bytes(8, "little"), offset)


@pytest.mark.parametrize("more", [False, True])
@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 63, 64, 119, 120])
def test_what_goes_in_comes_out(length: int, more: bool) -> None:
    with ring(CAPACITY) as (writer, reader, _):
        payload = os.urandom(length)
        assert writer.push(payload, more)
        assert reader.drain() == [(payload, more)]
        assert reader.drain() == []


@pytest.mark.parametrize("length", [121, 200, CAPACITY, 10 * CAPACITY])
def test_more_than_half_a_ring_is_too_large(length: int) -> None:
    with ring(CAPACITY) as (writer, reader, _):
        with pytest.raises(TooLarge):
            writer.push(bytes(length))
        assert reader.drain() == []


@pytest.mark.parametrize("length", [0, 8, 24, 56, 120])
def test_exactly_full(length: int) -> None:
    with ring(CAPACITY) as (writer, reader, _):
        fit = CAPACITY // (8 + length)
        sent = [bytes([number]) * length for number in range(fit)]
        assert all(writer.push(payload) for payload in sent)
        assert writer.used_bytes() == CAPACITY
        assert not writer.push(b"")
        assert writer.used_bytes() == CAPACITY
        assert [payload for payload, _ in reader.drain()] == sent
        assert writer.used_bytes() == 0
        assert writer.push(bytes(length))


@pytest.mark.parametrize(
    ("before", "length", "padding"),
    [
        (112, 112, 16),  # 120 bytes gone twice: 16 are left before the wrap
        (104, 24, 0),  # 112 twice: 32 are left, the record fills them
        (104, 25, 32),
        (112, 8, 0),
        (112, 9, 16),
        (116, 0, 0),  # 128 twice: the wrap is where the record starts
    ],
)
def test_a_record_never_wraps(before: int, length: int, padding: int) -> None:
    with ring(CAPACITY) as (writer, reader, _):
        for _ in range(2):
            assert writer.push(bytes(before))
            assert len(reader.drain()) == 1
        payload = os.urandom(length)
        assert writer.push(payload)
        assert writer.used_bytes() == padding + 8 + -(-length // 8) * 8
        assert writer.push(b"behind")
        assert reader.drain() == [(payload, False), (b"behind", False)]


def test_no_room_for_the_padding() -> None:
    """160 bytes are free, but 64 of them are before the wrap, and the record must not wrap."""
    with ring(CAPACITY) as (writer, reader, _):
        assert writer.push(bytes(88))
        assert writer.push(bytes(88))
        reader.drain(1)
        assert writer.used_bytes() == 96
        assert not writer.push(bytes(104))
        assert writer.used_bytes() == 96
        assert writer.push(bytes(88))
        assert [len(payload) for payload, _ in reader.drain()] == [88, 88]


def test_drain_stops_behind_the_record_that_reaches_the_limit() -> None:
    with ring(CAPACITY) as (writer, reader, _):
        for number in range(6):
            writer.push(bytes([number]) * 8)
        assert [payload[0] for payload, _ in reader.drain(1)] == [0]
        assert [payload[0] for payload, _ in reader.drain(32)] == [1, 2]
        assert [payload[0] for payload, _ in reader.drain(33)] == [3, 4, 5]


def test_what_is_not_committed_is_not_there() -> None:
    """What was written before the tail was stored does not count."""
    with ring(CAPACITY) as (writer, reader, fds):
        writer.push(b"committed")
        tail = writer.used_bytes()
        poke(fds.memory, HEADER_BYTES + tail, 5)
        assert reader.drain() == [(b"committed", False)]
        assert writer.push(b"next")
        assert reader.drain() == [(b"next", False)]


@pytest.mark.parametrize(
    ("offset", "value"),
    [
        pytest.param(TAIL_AT, CAPACITY + 8, id="tail more than a ring ahead"),
        pytest.param(TAIL_AT, 19, id="tail between records"),
        pytest.param(TAIL_AT, 1 << 63, id="tail far away"),
        pytest.param(HEAD_AT, 32, id="head beyond the tail"),
        pytest.param(HEAD_AT, 3, id="head between records"),
        pytest.param(HEADER_BYTES, 17, id="record ends beyond the tail"),
        pytest.param(HEADER_BYTES, 17 | MORE, id="piece ends beyond the tail"),
        pytest.param(HEADER_BYTES, CAPACITY // 2 + 1, id="record of more than half a ring"),
        pytest.param(HEADER_BYTES, 1 << 62, id="record of more than there is"),
        pytest.param(HEADER_BYTES, PAD, id="padding ends beyond the tail"),
        pytest.param(HEADER_BYTES, PAD - 1, id="almost padding"),
    ],
)
def test_what_no_writer_can_have_stored_is_corrupt(offset: int, value: int) -> None:
    with ring(CAPACITY) as (writer, reader, fds):
        writer.push(bytes(16))
        poke(fds.memory, offset, value)
        with pytest.raises(Corrupt):
            reader.drain()


def test_a_record_over_the_end_is_corrupt() -> None:
    """The length would be valid at another offset."""
    with ring(CAPACITY) as (writer, reader, fds):
        for _ in range(2):
            writer.push(bytes(104))
            reader.drain()
        writer.push(bytes(24))
        writer.push(bytes(64))
        poke(fds.memory, HEADER_BYTES + 224, 64)
        with pytest.raises(Corrupt):
            reader.drain()


def test_what_comes_before_a_corrupt_record_is_taken() -> None:
    with ring(CAPACITY) as (writer, reader, fds):
        writer.push(b"one")
        writer.push(b"two", more=True)
        poke(fds.memory, HEADER_BYTES + 16, 1 << 62)
        assert reader.drain() == [(b"one", False)]
        for _ in range(2):
            with pytest.raises(Corrupt):
                reader.drain()


def test_memory_without_the_mark_is_no_ring() -> None:
    with ring(CAPACITY) as (_, _, fds):
        poke(fds.memory, 0, 1)
        with pytest.raises(Corrupt):
            Ring(*fds)


@pytest.mark.parametrize("size", [0, HEADER_BYTES, HEADER_BYTES + 100])
def test_memory_of_another_size_is_no_ring(size: int) -> None:
    memory = os.memfd_create("test")
    try:
        os.ftruncate(memory, size)
        with pytest.raises(Corrupt):
            Ring(memory, -1, -1)
    finally:
        os.close(memory)


@pytest.mark.parametrize("size", [0, HEADER_BYTES, HEADER_BYTES + 2 * CAPACITY])
def test_nobody_can_change_the_size(size: int) -> None:
    fds = create_ring(CAPACITY, "test")
    try:
        with pytest.raises(PermissionError):
            os.ftruncate(fds.memory, size)
    finally:
        fds.close()


def test_only_a_reader_that_sleeps_is_woken_and_only_once() -> None:
    with ring(CAPACITY) as (writer, reader, fds):
        writer.push(b"1")
        assert not fired(fds.data)
        assert not reader.arm()  # there is something
        reader.drain()
        assert reader.arm()
        writer.push(b"2")
        assert fired(fds.data)
        writer.push(b"3")
        assert not fired(fds.data)
        reader.drain()
        assert reader.arm()
        reader.disarm()
        writer.push(b"4")
        assert not fired(fds.data)


def test_a_reader_that_found_something_is_not_woken_for_more() -> None:
    with ring(CAPACITY) as (writer, reader, fds):
        writer.push(b"1")
        assert not reader.arm()
        writer.push(b"2")
        assert not fired(fds.data)


def test_a_writer_is_woken_when_half_the_ring_is_free() -> None:
    with ring(CAPACITY) as (writer, reader, fds):
        for _ in range(8):
            writer.push(bytes(24))
        reader.drain()
        assert not fired(fds.space)  # it did not ask
        for _ in range(8):
            writer.push(bytes(24))
        assert writer.arm_space()
        reader.drain(3 * 32)
        assert not fired(fds.space)
        reader.drain(32)
        assert fired(fds.space)
        reader.drain()
        assert not fired(fds.space)


def test_a_writer_that_has_room_is_not_woken() -> None:
    with ring(CAPACITY) as (writer, reader, fds):
        writer.push(bytes(24))
        assert not writer.arm_space()
        reader.drain()
        assert not fired(fds.space)
