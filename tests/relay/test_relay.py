"""Links through two relays: every message, in order, bounded, and only with the right key."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from dynamo_cli.ipc.link import MAX_PENDING_BYTES, Link
from dynamo_cli.ipc.ring import HEADER_BYTES
from dynamo_cli.messages.cluster import (
    Carry,
    RelayConnection,
    RelayCut,
    RelayDown,
    RelayJoined,
    RelayStats,
)
from dynamo_cli.relay import port as relay_port
from dynamo_cli.relay import process as relay_process
from dynamo_cli.relay.wire import Wire
from dynamo_cli.units import KIB, MIB
from tests.ipc.support import copies, ring
from tests.relay.pair import HERE, THERE, End, Pair
from tests.support.server import wait_until


@pytest.fixture
def pair() -> Iterator[Pair]:
    found = Pair()
    try:
        assert found.run_until(lambda: found.head.heard(RelayJoined))
        assert found.run_until(lambda: found.node.heard(RelayJoined))
        yield found
    finally:
        found.close()


def received(pair: Pair, link: Link, count: int) -> list[bytes]:
    """Messages that come out of a link until there are `count`."""
    found: list[bytes] = []

    def all_there() -> bool:
        found.extend(link.receive())
        return len(found) >= count

    assert pair.run_until(all_there), len(found)
    return found


def test_messages_of_every_size_come_in_order_in_both_directions(pair: Pair) -> None:
    here, there = pair.link(1)
    sizes = (0, 1, 100, 20_000, 500_000, 7, 3_000_000)
    messages = [bytes([number]) * size for number, size in enumerate(sizes)]
    for one, other in ((here, there), (there, here)):
        for message in messages:
            assert one.send(message)
        assert received(pair, other, len(messages)) == messages


def test_a_message_larger_than_all_that_may_wait_is_carried(pair: Pair) -> None:
    here, there = pair.link(1)
    large = os.urandom(MIB) * (MAX_PENDING_BYTES // MIB + 6)
    for message in (b"before", large, b"behind"):
        assert here.send(message)
    assert received(pair, there, 3) == [b"before", large, b"behind"]


@pytest.mark.parametrize("size", [5, 300_000, 5_000_000])
def test_what_is_between_the_supervisor_and_the_outpost_is_carried(pair: Pair, size: int) -> None:
    for one, other in ((pair.head, pair.node), (pair.node, pair.head)):
        one.control.send(Carry(b"x" * size))
        assert pair.run_until(lambda end=other: end.heard(Carry))
        assert other.said[-1] == Carry(b"x" * size)


def test_a_link_whose_reader_sleeps_is_bounded_and_delays_no_other(pair: Pair) -> None:
    """What does not fit waits at the sender, where it is counted and refused as ever."""
    slow, quick = pair.link(1), pair.link(2)
    block = b"x" * 100_000
    sent = 0
    while slow[0].send(block):
        sent += 1
        if sent % 100 == 0:
            advance_a_while(pair)
    assert slow[0].refused_sends == 1
    advance_a_while(pair)
    waiting = pair.node.relay._ports[1]
    assert waiting.link is not None
    assert waiting.link.pending_bytes <= relay_port.WINDOW_BYTES + 2 * relay_port.ROUND_BYTES
    assert quick[0].send(b"news")
    assert received(pair, quick[1], 1) == [b"news"]
    assert len(received(pair, slow[1], sent)) == sent


def test_the_head_reports_what_has_passed(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_process, "REPORT_S", 0.0)
    here, there = pair.link(1)
    assert here.send(b"x" * 5_000)
    assert there.send(b"y" * 3_000)
    received(pair, there, 1)
    received(pair, here, 1)

    def reported() -> bool:
        pair.head.listen()
        stats = [one for one in pair.head.said if isinstance(one, RelayStats)]
        return bool(stats) and stats[-1].sent_bytes > 5_000 and stats[-1].received_bytes > 3_000

    assert pair.run_until(reported)
    pair.node.listen()
    assert not [one for one in pair.node.said if isinstance(one, RelayStats)]


def advance_a_while(pair: Pair) -> None:
    rounds = iter(range(50))
    pair.run_until(lambda: next(rounds, None) is None)


def test_what_comes_before_the_other_end_of_a_link_is_acknowledged_too(pair: Pair) -> None:
    """Else a window that was full by then would stay full for ever."""
    here = pair.half(pair.head, HERE, 1)
    block = b"x" * 100_000
    count = 2 * relay_port.WINDOW_BYTES // len(block)
    for _ in range(count):
        assert here.send(block)
        pair.run_until(lambda: not here.pending_bytes, timeout_s=0.01)
    assert pair.run_until(lambda: pair.head.relay._ports[1]._on_the_way >= relay_port.WINDOW_BYTES)
    advance_a_while(pair)
    there = pair.half(pair.node, THERE, 1, ring_bytes=2 * relay_port.WINDOW_BYTES)
    assert len(received(pair, there, count)) == count


def test_what_a_process_wrote_before_its_end_is_delivered(pair: Pair) -> None:
    here, there = pair.link(1)
    assert pair.run_until(lambda: pair.node.relay._ports)
    assert here.send(b"last words")
    pair.head.control.send(RelayDown(1))
    assert received(pair, there, 1) == [b"last words"]


def test_what_a_process_wrote_before_its_end_is_delivered_even_if_the_window_is_full(
    pair: Pair,
) -> None:
    """What waits in the ring then is sent with the end, which nothing else would do later."""
    here, there = pair.half(pair.head, HERE, 1, ring_bytes=1 << 20), None
    block = b"x" * 100_000
    sent = 0
    while here.send(block):
        sent += 1
        advance_a_while(pair)
    assert pair.head.relay._ports[1]._on_the_way >= relay_port.WINDOW_BYTES
    while here.pending_bytes:  # let go of one block after the other, as a reader would
        pair.head.relay._ports[1].acknowledged(len(block))
        pair.head.relay._pump(1, pair.head.relay._ports[1])
        here.on_space()
    assert not pair.head.relay._ports[1].link.arm()  # something is left in the ring
    pair.head.control.send(RelayDown(1))
    there = pair.half(pair.node, THERE, 1, ring_bytes=32 << 20)
    assert len(received(pair, there, sent)) == sent


def test_a_node_that_joins_anew_finds_no_link_of_the_time_before(pair: Pair) -> None:
    """Its outpost makes all links anew, and the relay of the head must not mix them up."""
    pair.link(1)
    assert pair.run_until(lambda: pair.node.relay._ports and pair.head.relay._ports)
    pair.node.close()
    pair.head.said.clear()
    pair.node = End(pair.node.config)
    assert pair.run_until(lambda: pair.head.heard(RelayJoined))
    assert not pair.head.relay._ports


def nothing_is_on_the_way(pair: Pair) -> bool:
    """Whether both ends have the link, and all frames of each have come to the other."""
    head, node = pair.head.relay, pair.node.relay
    linked = [port.link for relay in (head, node) for port in relay._ports.values()]
    sent = head._session._sent, node._session._sent
    return (
        len(linked) == 2
        and all(linked)
        and sent == (node._session._received, head._session._received)
    )


def test_a_broken_connection_is_made_anew_and_the_session_goes_on(pair: Pair) -> None:
    here, there = pair.link(1)
    socket, config = pair.node.relay._wire._socket, pair.node.config
    pair.head.said.clear()
    endpoint = f"tcp://{config.host}:{config.port}"
    assert pair.run_until(lambda: nothing_is_on_the_way(pair))
    socket.disconnect(endpoint)
    socket.connect(endpoint)
    pair.node.relay._hello_due_s = 0.0
    before = pair.head.relay._wire._peer
    assert pair.run_until(lambda: pair.head.relay._wire._peer != before)
    assert here.send(b"down")
    assert received(pair, there, 1) == [b"down"]
    assert there.send(b"up")
    assert received(pair, here, 1) == [b"up"]
    assert not pair.head.heard(RelayCut)
    assert not pair.head.heard(RelayJoined)


def test_a_node_knows_whether_the_head_is_connected(pair: Pair) -> None:
    assert pair.run_until(lambda: pair.node.heard(RelayConnection))
    assert RelayConnection(True) in pair.node.said
    assert not pair.head.heard(RelayConnection)
    pair.node.said.clear()
    pair.head.relay._wire.close()  # as when the head is killed

    def told() -> bool:
        pair.node.relay.advance(0.0)
        return pair.node.heard(RelayConnection)

    wait_until(told, 20, "the node has seen it")
    assert pair.node.said == [RelayConnection(False)]


def test_a_relay_that_was_started_again_makes_the_other_begin_anew(pair: Pair) -> None:
    pair.link(1)
    assert pair.run_until(lambda: pair.node.relay._ports)
    config = pair.head.config
    port = pair.head.relay._wire.port
    pair.head.close()
    pair.head = End(
        type(config)(config.host, port, config.public, config.secret, config.other, listens=True)
    )
    assert pair.run_until(lambda: pair.node.heard(RelayCut))
    assert not pair.node.relay._ports
    assert pair.run_until(lambda: pair.head.heard(RelayJoined))


def test_a_stranger_is_not_let_in(caplog: pytest.LogCaptureFixture) -> None:
    pair = Pair(right_key=False)
    try:
        assert not pair.run_until(lambda: pair.head.heard(RelayJoined), timeout_s=1.5)
        assert not pair.node.heard(RelayJoined)
        wire = pair.head.relay._wire
        assert wire.refused == 1
        others = [Wire(pair.node.config) for _ in range(2)]
        assert pair.run_until(lambda: wire.refused == 3)
        for other in others:
            other.close()
        first, second = (one for one in caplog.messages if "its key is wrong" in one)
        assert "127.0.0.1" in first
        assert "2 times so far" in second
    finally:
        pair.close()


def test_last_words_before_a_corrupt_record_are_passed_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with ring(64 * KIB) as (writer, _, fds), ring(64 * KIB) as (_, _, other):
        port = relay_port.Port(Link(THERE, 1, tx=copies(other), rx=copies(fds)))
        writer.push(b"good")
        writer.push(b"spoilt")
        os.pwrite(fds.memory, bytes(7) + b"\1", HEADER_BYTES + 16)
        assert port.last_words() == [b"good"]
        assert "a record of" in caplog.text
        assert port.link is not None
        port.link.close()
