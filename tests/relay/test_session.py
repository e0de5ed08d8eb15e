"""The sequence of frames between two relays: a lost frame, an old session, a new life."""

from __future__ import annotations

from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamo_cli.errors import Corrupt
from dynamo_cli.relay.frames import (
    Frame,
    FrameKind,
    pack_acks,
    pack_messages,
    unpack_acks,
    unpack_messages,
)
from dynamo_cli.relay.session import MISSING, REPLACED, HeadSession, NodeSession, SessionStep


def joined() -> tuple[HeadSession, NodeSession]:
    numbers = count(1)
    head, node = HeadSession(lambda: next(numbers)), NodeSession(lambda: next(numbers))
    step = head.take(node.hello())
    assert step.joined
    assert step.reply is not None
    assert node.take(step.reply).joined
    return head, node


def begins_anew(head: HeadSession, node: NodeSession, welcome: Frame | None, why: str) -> None:
    """The node ends its session at this WELCOME, and the head takes its next one."""
    assert welcome is not None
    step = node.take(welcome)
    assert step.cut == why
    assert step.reply is not None
    assert head.take(step.reply).joined


def test_frames_in_order_are_delivered_in_both_directions() -> None:
    head, node = joined()
    for _ in range(3):
        assert node.take(head.frame(FrameKind.DATA)).deliver
        assert head.take(node.frame(FrameKind.DATA)).deliver


def test_a_repeated_hello_changes_nothing() -> None:
    head, node = joined()
    step = head.take(node.hello())
    assert not step.joined
    assert step.reply is not None
    assert not node.take(step.reply).joined
    assert head.take(node.frame(FrameKind.DATA)).deliver


def test_a_node_that_misses_a_frame_begins_another_session() -> None:
    head, node = joined()
    head.frame(FrameKind.DATA)
    step = node.take(head.frame(FrameKind.DATA))
    assert step.cut == MISSING
    assert step.reply is not None
    assert head.take(step.reply).joined
    assert not node.take(head.frame(FrameKind.DATA)).deliver  # it is not welcome yet
    assert node.stale == 1


def test_a_head_that_misses_a_frame_makes_the_node_begin_anew() -> None:
    head, node = joined()
    node.frame(FrameKind.DATA)
    assert head.take(node.frame(FrameKind.DATA)).cut == MISSING
    assert not head.take(node.frame(FrameKind.DATA)).deliver
    begins_anew(head, node, head.take(node.hello()).reply, REPLACED)


def test_a_node_that_misses_the_last_frames_before_a_pause_begins_another_session() -> None:
    head, node = joined()
    head.frame(FrameKind.CARRY)
    begins_anew(head, node, head.take(node.hello()).reply, MISSING)


def test_a_node_that_misses_its_first_welcome_and_frames_begins_another_session() -> None:
    numbers = count(1)
    head, node = HeadSession(lambda: next(numbers)), NodeSession(lambda: next(numbers))
    head.take(node.hello())
    head.frame(FrameKind.CARRY)
    welcome = head.take(node.hello()).reply
    assert welcome is not None
    step = node.take(welcome)
    assert step.cut == MISSING
    assert not step.joined
    assert step.reply is not None
    anew = head.take(step.reply)
    assert anew.joined
    assert anew.reply is not None
    assert node.take(anew.reply).joined
    assert node.take(head.frame(FrameKind.CARRY)).deliver


def test_a_head_that_misses_the_last_frames_before_a_pause_makes_the_node_begin_anew() -> None:
    head, node = joined()
    node.frame(FrameKind.CARRY)
    step = head.take(node.hello())
    assert step.cut == MISSING
    assert not step.joined
    begins_anew(head, node, step.reply, REPLACED)


def test_a_new_head_does_not_go_on_with_the_session_of_an_earlier_one() -> None:
    """It would find that frames are missing."""
    _, node = joined()
    node.frame(FrameKind.DATA)
    numbers = count(200)
    head = HeadSession(lambda: next(numbers))
    step = head.take(node.hello())
    assert not step.joined
    begins_anew(head, node, step.reply, REPLACED)


def test_a_welcome_to_an_earlier_session_is_none() -> None:
    """It is still on the way when the node begins another session."""
    numbers = count(1)
    head, node = HeadSession(lambda: next(numbers)), NodeSession(lambda: next(numbers))
    late = head.take(node.hello()).reply
    assert late is not None
    again = NodeSession(lambda: next(numbers))
    assert again.take(late) == SessionStep()
    assert not again.joined
    assert head.take(again.hello()).joined


def test_a_welcome_repeats_the_session_and_names_the_life_of_the_head() -> None:
    numbers = count(10)
    head, node = HeadSession(lambda: next(numbers)), NodeSession(lambda: next(numbers))
    welcome = head.take(node.hello()).reply
    assert welcome == Frame(FrameKind.WELCOME, node.hello().session, 0, 10, b"")


def test_frames_of_an_earlier_session_are_counted_and_dropped() -> None:
    head, node = joined()
    old = node.frame(FrameKind.DATA)
    numbers = count(100)
    again = NodeSession(lambda: next(numbers))
    assert head.take(again.hello()).joined
    assert not head.take(old).deliver
    assert head.stale == 1


@given(st.lists(st.binary(max_size=50)))
def test_messages_survive(messages: list[bytes]) -> None:
    frame = Frame(FrameKind.DATA, 1 << 62, 7, 9, pack_messages(messages))
    assert Frame.unpack(frame.pack()) == frame
    assert unpack_messages(frame.body) == messages


@given(st.dictionaries(st.integers(0, 1 << 63), st.integers(0, 1 << 40)))
def test_acknowledgements_survive(acks: dict[int, int]) -> None:
    assert unpack_acks(pack_acks(acks)) == acks


@given(st.binary(max_size=80))
def test_other_bytes_are_corrupt_or_a_frame(data: bytes) -> None:
    for read in (Frame.unpack, unpack_messages, unpack_acks):
        try:
            read(data)
        except Corrupt:
            continue


@pytest.mark.parametrize(
    "body",
    [
        pack_messages([b"abc"])[:-1],
        pack_messages([b"abc"]) + b"d",
        pack_messages([b"abc"])[:6],
        (1 << 31).to_bytes(4, "little") + bytes(40),
        b"",
        b"123",
    ],
    ids=["short", "long", "half a length", "more lengths than bytes", "empty", "half a count"],
)
def test_bodies_whose_lengths_do_not_add_up_are_corrupt(body: bytes) -> None:
    with pytest.raises(Corrupt, match="messages"):
        unpack_messages(body)


def test_cut_bodies_are_corrupt() -> None:
    with pytest.raises(Corrupt):
        unpack_acks(b"123")
    with pytest.raises(Corrupt):
        Frame.unpack(b"\x63" + bytes(40))
