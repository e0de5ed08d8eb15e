"""Control sockets: packets, descriptors, and what happens when the other side is gone."""

from __future__ import annotations

import asyncio
import os
from itertools import islice

import pytest

from dynamo_cli.errors import Corrupt
from dynamo_cli.ipc.control import Control
from dynamo_cli.ipc.packet import MAX_PACKET_BYTES
from dynamo_cli.messages.base import Message
from dynamo_cli.messages.lifecycle import (
    Drain,
    Drained,
    Fatal,
    LinkDown,
    LinkUp,
    Phase,
    PhaseChange,
    ProbeResult,
    Retire,
    Stop,
)
from tests.ipc.support import Ends, open_descriptors


def test_messages_keep_their_borders_and_order(ends: Ends) -> None:
    ours, child = ends
    there: list[Message] = [Drain(1.5), Stop(), Drain(2.5)]
    back: list[Message] = [PhaseChange(Phase.READY), ProbeResult(0, "no answer")]
    for message in there:
        ours.send(message)
    for message in back:
        child.send(message)
    assert list(child.receive()) == [(message, []) for message in there]
    assert list(ours.receive()) == [(message, []) for message in back]
    assert list(child.receive()) == []
    assert not child.closed


def test_descriptors_come_with_their_message(ends: Ends) -> None:
    ours, child = ends
    pipes = [os.pipe() for _ in range(6)]
    ours.send(LinkUp("router", 1), [write for _, write in pipes])
    ours.send(Stop())
    for _, write in pipes:
        os.close(write)
    (up, descriptors), (stop, none) = child.receive()
    assert (up, stop, none) == (LinkUp("router", 1), Stop(), [])
    for number, descriptor in enumerate(descriptors):
        os.write(descriptor, bytes([number]))
        os.close(descriptor)
    assert [os.read(read, 2) for read, _ in pipes] == [bytes([number]) for number in range(6)]
    for read, _ in pipes:
        os.close(read)


def test_received_descriptors_do_not_survive_exec(ends: Ends) -> None:
    ours, child = ends
    read, write = os.pipe()
    ours.send(LinkUp("router", 1), [read])
    ((_, (descriptor,)),) = child.receive()
    assert not os.get_inheritable(descriptor)
    for each in (read, write, descriptor):
        os.close(each)


def test_a_full_socket_keeps_messages_and_their_descriptors(ends: Ends) -> None:
    ours, child = ends
    read, write = os.pipe()
    count = 2000  # far more than the kernel keeps for a socket
    for number in range(count):
        ours.send(LinkUp("router", number), [write] if number == count - 1 else ())
    os.close(write)  # the control socket has its own copy
    assert not ours.flush()
    received: list[tuple[LinkUp, list[int]]] = []
    while len(received) < count:
        received += child.receive()
        ours.flush()
    assert ours.flush()
    assert [message.generation for message, _ in received] == list(range(count))
    (descriptor,) = received[-1][1]
    os.write(descriptor, b"late")
    assert os.read(read, 4) == b"late"
    os.close(descriptor)
    os.close(read)


def test_what_is_behind_a_message_whose_handling_fails_is_received_later(ends: Ends) -> None:
    ours, child = ends
    sent = [Drain(float(number)) for number in range(3)]
    for message in sent:
        ours.send(message)
    handled: list[Message] = []
    with pytest.raises(KeyError):
        for message, _ in child.receive():
            handled.append(message)
            raise KeyError("nobody expects this")
    handled += [message for message, _ in child.receive()]
    assert handled == sent


def test_one_call_receives_so_many_messages_and_no_more(ends: Ends) -> None:
    """The other end may send as fast as messages are handled: the loop has other work too."""
    ours, child = ends
    ours.send(Drain(0.0))
    handled: list[Message] = []
    for message, _ in islice(child.receive(3), 9):
        handled.append(message)
        ours.send(Drain(float(len(handled))))
    assert handled == [Drain(0.0), Drain(1.0), Drain(2.0)]
    assert [message for message, _ in child.receive()] == [Drain(3.0)]


def test_of_states_that_wait_only_the_newest_of_each_type_is_sent(ends: Ends) -> None:
    ours, child = ends
    while ours.flush():
        ours.send(Stop())
    waits = len(ours._waiting)
    large = "x" * MAX_PACKET_BYTES  # its descriptor is closed with it
    before = open_descriptors()
    for generation in range(3):
        ours.send_state(LinkDown("router", generation, large))
        ours.send_state(Retire(generation))
        ours.send(LinkDown("router", generation, "no state"))
    assert len(ours._waiting) == waits + 2 + 3
    received: list[Message] = []
    while not ours.flush():
        received += [message for message, _ in child.receive()]
    received += [message for message, _ in child.receive()]
    rest = [message for message in received if not isinstance(message, Stop)]
    plain = [LinkDown("router", generation, "no state") for generation in range(3)]
    assert rest == [*plain[:2], LinkDown("router", 2, large), Retire(2), plain[2]]
    assert open_descriptors() == before


def test_what_was_sent_before_the_end_is_received(ends: Ends) -> None:
    ours, child = ends
    child.send(PhaseChange(Phase.STARTING))
    child.close()
    assert list(ours.receive()) == [(PhaseChange(Phase.STARTING), [])]
    assert ours.closed
    assert list(ours.receive()) == []


def test_the_end_with_something_unread_is_the_end(ends: Ends) -> None:
    """With unread data the kernel reports a reset connection instead of end of file."""
    ours, child = ends
    ours.send(Stop())
    child.close()
    assert list(ours.receive()) == []
    assert ours.closed


@pytest.mark.parametrize("ender", ["we", "they"])
def test_last_words_come_although_something_was_left_unread(ends: Ends, ender: str) -> None:
    """The kernel reports a reset connection first, then delivers what was sent before."""
    ours, child = ends
    reader, writer = (child, ours) if ender == "we" else (ours, child)
    said: list[Message] = [Stop()] if ender == "we" else [Fatal("ModelError", "why"), Drained(3)]
    reader.send(Stop() if ender == "they" else PhaseChange(Phase.READY))  # never read
    for message in said:
        writer.send(message)
    writer.close()
    assert [message for message, _ in reader.receive()] == said
    assert reader.closed


def test_sending_to_nobody_is_no_failure(ends: Ends) -> None:
    ours, child = ends
    child.close()
    ours.send(Stop())  # before the end was seen
    list(ours.receive())
    ours.send(Stop())  # and after it
    assert ours.flush()


@pytest.mark.parametrize("ender", ["we", "they"])
def test_what_waited_leaves_no_descriptor_behind(ender: str) -> None:
    before = open_descriptors()
    ours, theirs = Control.pair()
    read, write = os.pipe()
    for number in range(500):
        ours.send(LinkUp("router", number), [read])
    assert not ours.flush()
    assert len(open_descriptors()) > len(before) + 4  # copies wait
    theirs.close()
    if ender == "they":
        assert ours.flush()
        assert len(open_descriptors()) == len(before) + 3
    ours.close()
    os.close(read)
    os.close(write)
    assert open_descriptors() == before


def test_a_message_of_another_union_is_corrupt(ends: Ends) -> None:
    ours, child = ends
    child.send(Stop())
    with pytest.raises(Corrupt):
        list(ours.receive())


def test_what_waits_is_sent_by_the_loop_without_another_send(ends: Ends) -> None:
    ours, child = ends

    async def scenario() -> list[int]:
        ours.attach(asyncio.get_running_loop().call_later)
        for number in range(2000):  # far more than the kernel keeps for a socket
            ours.send(LinkUp("router", number))
        received: list[int] = []
        while len(received) < 2000:
            received += [message.generation for message, _ in child.receive()]
            await asyncio.sleep(0)
        return received

    received = asyncio.run(asyncio.wait_for(scenario(), 20))
    assert received == list(range(2000))
    assert ours.flush()
