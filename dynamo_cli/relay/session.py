"""Checks that the frames between two relays arrive without a gap, and begins again if not. Pure.

The node chooses a random number for its session. It sends HELLO with this number again and again,
as long as the session lasts. The head answers each HELLO with WELCOME, which carries its life: a
random number that the head chooses when it starts, and again when it misses a frame. A node begins
another session when it misses a frame, and when WELCOME carries another life than before.

HELLO and WELCOME say how many frames their sender has sent, so that the last frames before a pause
are missed too: no later frame would show the gap.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from dynamo_cli.relay.frames import UNCOUNTED, Frame, FrameKind


class SessionStep(NamedTuple):
    """What to do after a frame.

    Attributes:
        deliver: whether the frame belongs to the session and is to be acted on.
        joined: whether a session has begun.
        cut: why the session has ended; empty if it has not.
        reply: a frame to send back.
    """

    deliver: bool = False
    joined: bool = False
    cut: str = ""
    reply: Frame | None = None


DELIVER = SessionStep(deliver=True)
MISSING = "frames of the relay were lost"
REPLACED = "the relay at the other end was started again, or has lost frames"


class Session:
    """One end of a session.

    Args:
        number: returns a random number that no other session or life has.

    Attributes:
        joined: whether a session is open.
        stale: number of frames since the start that were ignored because their session is over.
    """

    def __init__(self, number: Callable[[], int]) -> None:
        self._new = number
        self._life = number()
        self._session = 0
        self._sent = self._received = 0
        self.joined = False
        self.stale = 0

    def _count_anew(self) -> None:
        self._sent = self._received = 0

    def frame(self, kind: FrameKind, generation: int = 0, body: bytes = b"") -> Frame:
        """The next counted frame of the open session."""
        self._sent += 1
        return Frame(kind, self._session, self._sent, generation, body)

    def _in_order(self, frame: Frame) -> bool:
        self._received += 1
        return frame.number == self._received

    def _is_stale(self, frame: Frame) -> bool:
        if self.joined and frame.session == self._session and frame.kind not in UNCOUNTED:
            return False
        self.stale += frame.kind not in UNCOUNTED
        return True


class HeadSession(Session):
    """The head's end: takes the session that the node has chosen."""

    def take(self, frame: Frame) -> SessionStep:
        """Judge a frame of the node."""
        if frame.kind is FrameKind.HELLO:
            return self._greeted(frame)
        if self._is_stale(frame):
            return SessionStep()
        if self._in_order(frame):
            return DELIVER
        self._end()
        return SessionStep(cut=MISSING)

    def _end(self) -> None:
        self.joined, self._life = False, self._new()

    def _greeted(self, frame: Frame) -> SessionStep:
        known = self.joined and frame.session == self._session
        missing = known and frame.number != self._received
        # If frames were sent in a session that this end does not know, the session began in an
        # earlier life of this end. It is over: the node sees that from the life in the answer.
        joined = not known and not frame.number
        if missing:
            self._end()
        elif joined:
            self._session, self.joined = frame.session, True
            self._count_anew()
        sent = self._sent if known else 0
        welcome = Frame(FrameKind.WELCOME, frame.session, sent, self._life, b"")
        return SessionStep(joined=joined, cut=MISSING if missing else "", reply=welcome)


class NodeSession(Session):
    """The node's end: chooses the session."""

    def __init__(self, number: Callable[[], int]) -> None:
        super().__init__(number)
        self._head = 0
        self._begin()

    def _begin(self) -> None:
        self._session, self.joined = self._new(), False
        self._count_anew()

    def hello(self) -> Frame:
        """The HELLO frame, which the caller sends again and again."""
        return Frame(FrameKind.HELLO, self._session, self._sent, 0, b"")

    def take(self, frame: Frame) -> SessionStep:
        """Judge a frame of the head."""
        if frame.kind is FrameKind.WELCOME:
            return self._welcomed(frame)
        if self._is_stale(frame):
            return SessionStep()
        if self._in_order(frame):
            return DELIVER
        self._begin()
        return SessionStep(cut=MISSING, reply=self.hello())

    def _welcomed(self, frame: Frame) -> SessionStep:
        if frame.session != self._session:
            return SessionStep()
        replaced = self.joined and frame.generation != self._head
        if replaced or frame.number != self._received:
            self._begin()
            return SessionStep(cut=REPLACED if replaced else MISSING, reply=self.hello())
        joined, self.joined, self._head = not self.joined, True, frame.generation
        return SessionStep(joined=joined)
