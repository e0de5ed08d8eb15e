"""The bytes of one frame between two relays. Pure.

    u8 kind | u64 session | u64 number | u64 generation | body

    HELLO    node -> head: the session that the node wants; sent again and again. Its number says
             how many frames the node has sent in this session
    WELCOME  head -> node: the answer to HELLO; its number says how many frames the head has sent in
             this session, its generation is the life of the head's end, a random number that
             changes when that end starts or misses a frame
    OPEN     there is a link with this generation; data may follow
    DATA     body: u32 count | u32 length of each message | the messages
    ACK      body: (u64 generation | u64 bytes that were delivered) for each link
    CARRY    body: a message between supervisor and outpost

`number` counts the frames of a session in one direction, so that a lost frame is noticed. HELLO and
WELCOME are not counted themselves. A link is known by its generation, a number that the supervisor
gives it.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from itertools import accumulate, pairwise
from typing import NamedTuple

from dynamo_cli.errors import Corrupt

_HEAD = struct.Struct("<BQQQ")
_ACK = struct.Struct("<QQ")


class FrameKind(IntEnum):
    """The kind of a frame; see the layout above."""

    HELLO = 1
    WELCOME = 2
    OPEN = 3
    DATA = 4
    ACK = 5
    CARRY = 6


UNCOUNTED = (FrameKind.HELLO, FrameKind.WELCOME)

_KINDS = {int(kind): kind for kind in FrameKind}
"""Looked up for each frame; the class itself takes several microseconds."""


class Frame(NamedTuple):
    """A frame; see the layout above."""

    kind: FrameKind
    session: int
    number: int
    generation: int
    body: bytes

    def pack(self) -> bytes:
        """The bytes of the frame."""
        return _HEAD.pack(self.kind, self.session, self.number, self.generation) + self.body

    @staticmethod
    def unpack(data: bytes) -> Frame:
        """Read a frame. Raises `Corrupt` if the bytes are not a frame."""
        if len(data) < _HEAD.size:
            raise Corrupt(f"a frame of {len(data)} bytes")
        number_of_kind, session, number, generation = _HEAD.unpack_from(data)
        if (kind := _KINDS.get(number_of_kind)) is None:
            raise Corrupt(f"a frame of kind {number_of_kind}")
        return Frame(kind, session, number, generation, data[_HEAD.size :])


def pack_messages(messages: list[bytes]) -> bytes:
    """The body of a DATA frame."""
    lengths = struct.pack(f"<I{len(messages)}I", len(messages), *map(len, messages))
    return b"".join((lengths, *messages))


def unpack_messages(body: bytes) -> list[bytes]:
    """The messages of a DATA frame. Raises `Corrupt` if the body is not such a list."""
    try:
        (count,) = struct.unpack_from("<I", body)
        lengths = struct.unpack_from(f"<{count}I", body, 4)
    except struct.error as error:
        raise Corrupt(f"a frame of messages: {error}") from error
    start = 4 + 4 * count
    if count == 1 and len(body) == start + lengths[0]:
        return [body[start:]]  # as nearly always where an engine steps
    ends = list(accumulate(lengths, initial=start))
    if ends[-1] != len(body):
        raise Corrupt(f"{len(body)} bytes of messages instead of {ends[-1]}")
    return [body[begin:end] for begin, end in pairwise(ends)]


def pack_acks(acks: dict[int, int]) -> bytes:
    """The body of an ACK frame, from delivered bytes by generation."""
    return b"".join(_ACK.pack(generation, size) for generation, size in acks.items())


def unpack_acks(body: bytes) -> dict[int, int]:
    """Delivered bytes by generation. Raises `Corrupt` if the body is not such a list."""
    if len(body) % _ACK.size:
        raise Corrupt(f"{len(body)} bytes of acknowledgements")
    return dict(_ACK.iter_unpack(body))
