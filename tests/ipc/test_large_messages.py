"""Control sockets: messages that are larger than a packet may be."""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from dynamo_cli.errors import Corrupt, TooLarge
from dynamo_cli.host.memory_file import sealed_memory
from dynamo_cli.ipc.control import Control
from dynamo_cli.ipc.packet import (
    IN_MEMORY,
    MAX_CONTROL_BYTES,
    MAX_DESCRIPTORS,
    MAX_PACKET_BYTES,
    SIZE,
    send_at_once,
)
from dynamo_cli.messages.lifecycle import Drain, Fatal, Fork, LinkUp, Stop
from dynamo_cli.units import KIB, MIB
from tests.ipc.support import Ends, open_descriptors

SIZES = (MAX_PACKET_BYTES - 16, MAX_PACKET_BYTES, 100 * KIB, 300 * KIB, 5 * MIB)


def fork(size: int) -> Fork:
    """A message of about this size."""
    return Fork("worker 0", os.urandom(KIB) * (size // KIB) + bytes(size % KIB))


@contextmanager
def no_descriptors() -> Iterator[None]:
    """While this lasts, this process can open nothing."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    probe = os.open("/dev/null", os.O_RDONLY)
    os.close(probe)
    resource.setrlimit(resource.RLIMIT_NOFILE, (probe, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("count", [0, 6, MAX_DESCRIPTORS])
def test_any_size_comes_whole_with_its_descriptors(ends: Ends, size: int, count: int) -> None:
    ours, child = ends
    read, write = os.pipe()
    before, sent = len(open_descriptors()), fork(size)
    ours.send(sent, [write] * count)
    ours.send(Stop())
    (message, descriptors), stop = child.receive()
    assert (message, stop) == (sent, (Stop(), []))
    assert len(descriptors) == count
    for number, descriptor in enumerate(descriptors):
        os.write(descriptor, bytes([number]))
        os.close(descriptor)
    os.close(write)
    assert os.read(read, count + 1) == bytes(range(count))
    os.close(read)
    assert len(open_descriptors()) == before - 2


def test_large_messages_wait_in_order_while_the_socket_is_full(ends: Ends) -> None:
    ours, child = ends
    read, write = os.pipe()
    sent = [message for n in range(400) for message in (LinkUp("router", n), fork(100 * KIB))]
    for message in sent:
        ours.send(message, [write])
    assert not ours.flush()
    received: list[tuple[object, list[int]]] = []
    while len(received) < len(sent):
        received += (came := list(child.receive()))
        assert came
        ours.flush()
    assert [message for message, _ in received] == sent
    for _, (descriptor,) in received:
        os.close(descriptor)
    os.close(read)
    os.close(write)


@pytest.mark.parametrize("size", SIZES)
def test_what_a_dead_sender_has_sent_comes_whole(ends: Ends, size: int) -> None:
    ours, child = ends
    child.send(Fatal("ModelError", "x" * size))
    child.close()
    assert list(ours.receive()) == [(Fatal("ModelError", "x" * size), [])]
    assert ours.closed


@pytest.mark.parametrize("size", SIZES)
def test_nothing_is_left_of_messages_to_a_peer_that_is_gone(size: int) -> None:
    before = open_descriptors()
    ours, theirs = Control.pair()
    for _ in range(300):
        ours.send(fork(min(size, 300 * KIB)), [0])
    assert not ours.flush()
    theirs.close()
    assert ours.flush()
    ours.send(fork(size), [0])
    ours.close()
    assert open_descriptors() == before


def test_a_message_of_a_socket_without_control_may_be_large(ends: Ends) -> None:
    ours, child = ends
    before = open_descriptors()
    with socket.socket(fileno=os.dup(child.fileno())) as raw:
        send_at_once(raw, Fatal("ModelError", "x" * 300 * KIB))
    assert list(ours.receive()) == [(Fatal("ModelError", "x" * 300 * KIB), [])]
    assert open_descriptors() == before


def test_what_is_too_large_is_refused_by_name_and_stops_nothing(ends: Ends) -> None:
    ours, child = ends
    with pytest.raises(TooLarge, match="Fork has 67108"):
        ours.send(fork(MAX_CONTROL_BYTES))
    with pytest.raises(TooLarge, match=f"{MAX_DESCRIPTORS + 1} descriptors"):
        ours.send(Stop(), [0] * (MAX_DESCRIPTORS + 1))
    ours.send(Stop())
    assert list(child.receive()) == [(Stop(), [])]


def test_a_large_message_waits_while_the_sender_has_no_descriptors(ends: Ends) -> None:
    ours, child = ends
    with no_descriptors():
        ours.send(fork(100 * KIB))
        ours.send(Stop())
        assert not ours.flush()
    assert list(child.receive()) == []
    assert ours.flush()
    assert [type(message) for message, _ in child.receive()] == [Fork, Stop]


def test_a_receiver_without_descriptors_says_so_and_goes_on(ends: Ends) -> None:
    ours, child = ends
    ours.send(fork(100 * KIB))
    ours.send(Stop())
    with no_descriptors(), pytest.raises(Corrupt, match="has no room for"):
        list(child.receive())
    assert list(child.receive()) == [(Stop(), [])]


WRONG = {
    "no memory": (SIZE.pack(IN_MEMORY, 5), False),
    "no size": (bytes([IN_MEMORY]), True),
    "another size": (SIZE.pack(IN_MEMORY, 5), True),
    "a size beyond all bounds": (SIZE.pack(IN_MEMORY, 1 << 62), True),
    "no message": (SIZE.pack(IN_MEMORY, 8 * KIB), True),
    "a packet that is too long": (bytes(MAX_PACKET_BYTES + 1), True),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_packet_that_is_wrong_is_corrupt_and_leaves_nothing(ends: Ends, case: str) -> None:
    ours, child = ends
    before = open_descriptors()
    data, has_memory = WRONG[case]
    memory = sealed_memory("test", 8 * KIB)
    ours.send(Drain(1.0))
    with socket.socket(fileno=os.dup(ours.fileno())) as raw:
        socket.send_fds(raw, [data], [memory] if has_memory else [])
    os.close(memory)
    ours.send(Stop())
    received = []
    with pytest.raises(Corrupt):
        for message, _ in child.receive():
            received.append(message)
    assert received == [Drain(1.0)]
    assert list(child.receive()) == [(Stop(), [])]
    assert open_descriptors() == before


def test_another_descriptor_than_memory_is_corrupt(ends: Ends) -> None:
    ours, child = ends
    read, write = os.pipe()
    with socket.socket(fileno=os.dup(ours.fileno())) as raw:
        socket.send_fds(raw, [SIZE.pack(IN_MEMORY, 0)], [read])
    with pytest.raises(Corrupt):
        list(child.receive())
    os.close(read)
    os.close(write)
