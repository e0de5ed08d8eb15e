"""Links: messages in pieces, their order, and the bound on what waits."""

from __future__ import annotations

import os

import pytest

from dynamo_cli.errors import Corrupt
from dynamo_cli.ipc import link as link_module
from dynamo_cli.ipc.link import MAX_PENDING_BYTES, Link
from dynamo_cli.ipc.ring import Ring
from dynamo_cli.units import KIB, MIB

from .support import THERE, copies, fired, links, ring

CAPACITY = 64 * KIB


def carry(sender: Link, receiver: Link) -> list[bytes]:
    """Move all messages of the sender, driven only by the wake-ups that it asked for."""
    messages = receiver.receive()
    while fired(sender.space_fd):
        sender.flush()
        messages += receiver.receive()
    return messages


@pytest.mark.parametrize(
    "length",
    [
        0,
        1,
        CAPACITY // 4 - 9,
        CAPACITY // 4 - 8,
        CAPACITY // 4 - 7,
        CAPACITY // 4,
        CAPACITY // 4 + 1,
        CAPACITY // 2,
        CAPACITY,
        3 * CAPACITY + 5,
    ],
)
def test_a_message_comes_whole(length: int) -> None:
    with links(CAPACITY) as (a, b):
        payload = os.urandom(length)
        assert a.send(payload)
        assert a.send(b"behind")
        assert carry(a, b) == [payload, b"behind"]
        assert a.pending_bytes == 0
        assert a.depth_bytes() == 0


def test_40_mib_through_a_ring_of_4_mib() -> None:
    with links(4 * MIB) as (a, b):
        payload = os.urandom(MIB) * 40
        assert a.send(b"before")
        assert a.send(payload)
        assert a.send(b"behind")
        assert 0 < a.pending_bytes < len(payload)
        assert carry(a, b) == [b"before", payload, b"behind"]
        assert a.pending_bytes == 0


def test_both_directions_at_once() -> None:
    with links(CAPACITY) as (a, b):
        there, back = os.urandom(5 * CAPACITY), os.urandom(7 * CAPACITY)
        a.send(there)
        b.send(back)
        assert carry(a, b) == [there]
        assert carry(b, a) == [back]


def test_half_a_message_is_not_delivered() -> None:
    with links(CAPACITY) as (a, b):
        a.send(bytes(3 * CAPACITY))
        assert b.receive() == []
        assert a.depth_bytes() >= 2 * CAPACITY


def test_small_messages_stay_behind_the_large_one_that_waits() -> None:
    with links(CAPACITY) as (a, b):
        sent = [os.urandom(2 * CAPACITY), *(bytes([number]) for number in range(100))]
        assert all(a.send(payload) for payload in sent)
        assert carry(a, b) == sent


@pytest.mark.timeout(20)
@pytest.mark.parametrize("length", [CAPACITY // 4 - 8, CAPACITY // 4, CAPACITY])
@pytest.mark.parametrize("used_bytes", range(0, CAPACITY, CAPACITY // 16))
@pytest.mark.parametrize("start_bytes", [0, CAPACITY // 2 + 1000])
def test_a_sender_never_waits(start_bytes: int, used_bytes: int, length: int) -> None:
    """`send` returns at once however full the ring is and wherever it wraps."""
    with links(CAPACITY) as (a, b):
        for _ in range(start_bytes // 8):
            a.send(b"")
        assert len(b.receive()) == start_bytes // 8
        for _ in range(used_bytes // 8):
            a.send(b"")
        payload = os.urandom(length)
        assert a.send(payload)
        assert carry(a, b)[used_bytes // 8 :] == [payload]


def test_what_waits_is_bounded_and_refusals_are_counted() -> None:
    with links(CAPACITY) as (a, b):
        large = bytes(MAX_PENDING_BYTES // 4)
        accepted = 0
        while a.send(large):
            accepted += 1
        assert accepted == 4  # the first pieces of the first one are in the ring
        assert a.refused_sends == 1
        assert not a.send(large)
        assert a.refused_sends == 2
        assert a.pending_bytes <= MAX_PENDING_BYTES
        assert [len(message) for message in carry(a, b)] == [len(large)] * accepted
        assert a.send(large)  # there is room again
        assert a.refused_sends == 2


def test_one_large_message_is_sent_and_leaves_the_others_their_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(link_module, "MAX_PENDING_BYTES", 3 * CAPACITY)
    monkeypatch.setattr(link_module, "MAX_MESSAGE_BYTES", 9 * CAPACITY)
    with links(CAPACITY) as (a, b):
        small, large = os.urandom(CAPACITY), os.urandom(9 * CAPACITY)
        assert not a.send(large + b"x")
        assert not a.send(large + b"x", owed=True), "the peer would take it for corrupt"
        sent = [small, small, large, small]
        assert [a.send(message) for message in sent] == [True] * 4
        assert not a.send(large), "one at a time"
        assert not a.send(small), "the bound holds for the others"
        assert a.refused_sends == 4
        assert carry(a, b) == sent
        assert a.send(large)  # there is room again
        while a.pending_bytes > 4 * CAPACITY:  # while it passes, too, its rest does not count
            b.receive()
            a.flush()
        assert [a.send(small) for _ in range(4)] == [True, True, True, False]
        assert carry(a, b)[-3:] == [small] * 3


def test_what_is_owed_leaves_the_others_their_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "MAX_PENDING_BYTES", 2 * CAPACITY)
    with links(CAPACITY) as (a, b):
        owed, small = os.urandom(3 * CAPACITY), os.urandom(CAPACITY)
        sent = [(owed, True), (owed, True), (small, False), (small, False)]
        assert all(a.send(message, owed=is_owed) for message, is_owed in sent)
        assert not a.send(small)
        assert carry(a, b) == [message for message, _ in sent]
        assert a.send(owed), "none of that size waits any more"
        assert [a.send(small) for _ in range(3)] == [True, True, False]


def test_depth_is_what_the_peer_has_not_read() -> None:
    with links(CAPACITY) as (a, b):
        a.send(bytes(24))
        assert (a.depth_bytes(), a.pending_bytes) == (32, 0)
        a.send(bytes(2 * CAPACITY))
        assert a.depth_bytes() >= 2 * CAPACITY
        carry(a, b)
        assert a.depth_bytes() == 0
        assert b.depth_bytes() == 0


def test_a_message_without_an_end_is_corrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "MAX_MESSAGE_BYTES", 100)
    with ring(CAPACITY) as (_, _, fds), ring(CAPACITY) as (_, _, other):
        writer = Ring(*fds)
        link = Link(THERE, 1, tx=copies(other), rx=copies(fds))
        writer.push(bytes(60), more=True)
        assert link.receive() == []
        writer.push(bytes(40))
        writer.push(b"whole")
        writer.push(bytes(60), more=True)
        writer.push(bytes(60), more=True)
        assert link.receive() == [bytes(100), b"whole"]
        assert not link.arm(), "there is an error to raise"
        with pytest.raises(Corrupt):
            link.receive()
        link.close()
        writer.close()


def test_what_would_end_the_peer_is_refused_where_it_is_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(link_module, "MAX_MESSAGE_BYTES", 2 * CAPACITY)
    with links(CAPACITY) as (a, b):
        assert not a.send(bytes(2 * CAPACITY + 1), owed=True)
        assert a.send(bytes(2 * CAPACITY), owed=True)
        assert [len(message) for message in carry(a, b)] == [2 * CAPACITY]


def test_a_peer_is_woken_and_then_armed_again() -> None:
    with links(CAPACITY) as (a, b):
        for _ in range(3):
            assert b.arm()
            a.send(b"x")
            assert fired(b.data_fd)
            assert b.receive() == [b"x"]


def test_close_gives_every_descriptor_back() -> None:
    before = os.listdir("/proc/self/fd")  # noqa: PTH208  # names, not paths
    with links(CAPACITY) as (a, _):
        a.send(bytes(10 * CAPACITY))
    assert os.listdir("/proc/self/fd") == before  # noqa: PTH208
