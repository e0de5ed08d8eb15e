"""Whether both relays still share one unbroken sequence of frames. Pure.

The node names a session and repeats HELLO until the head's WELCOME arrives, and goes on repeating
it while the session lasts. If a frame is missing, the side that notices begins anew: a node with
another session, a head with another life, which makes the node begin another session.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from dynamo_cli.relay.frames import UNCOUNTED, Frame, FrameKind


class SessionStep(NamedTuple):
    """What follows a frame.

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


MISSING = "frames of the relay were lost"
REPLACED = "the relay at the other end was started again"


class Session:
    """One end of the sequence of frames.

    Args:
        number: returns a number that no other session or life has.

    Attributes:
        joined: whether a session is open.
        stale: frames that came from a session which is over, since the start.
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
    """The head's end: takes the session that the node names."""

    def take(self, frame: Frame) -> SessionStep:
        """Judge a frame of the node."""
        if frame.kind is FrameKind.HELLO:
            known = self.joined and frame.session == self._session
            # A session in which frames were sent began with an earlier life of this end. The node
            # sees from the answer that it is over.
            joined = not known and not frame.number
            if joined:
                self._session, self.joined = frame.session, True
                self._count_anew()
            welcome = Frame(FrameKind.WELCOME, frame.session, 0, self._life, b"")
            return SessionStep(joined=joined, reply=welcome)
        if self._is_stale(frame):
            return SessionStep()
        if self._in_order(frame):
            return SessionStep(deliver=True)
        self.joined, self._life = False, self._new()
        return SessionStep(cut=MISSING)


class NodeSession(Session):
    """The node's end: names the session."""

    def __init__(self, number: Callable[[], int]) -> None:
        super().__init__(number)
        self._head = 0
        self._begin()

    def _begin(self) -> None:
        self._session, self.joined = self._new(), False
        self._count_anew()

    def hello(self) -> Frame:
        """The frame to repeat."""
        return Frame(FrameKind.HELLO, self._session, self._sent, 0, b"")

    def take(self, frame: Frame) -> SessionStep:
        """Judge a frame of the head."""
        if frame.kind is FrameKind.WELCOME:
            return self._welcomed(frame)
        if self._is_stale(frame):
            return SessionStep()
        if self._in_order(frame):
            return SessionStep(deliver=True)
        self._begin()
        return SessionStep(cut=MISSING, reply=self.hello())

    def _welcomed(self, frame: Frame) -> SessionStep:
        if frame.session != self._session:
            return SessionStep()
        if self.joined and frame.generation != self._head:
            self._begin()
            return SessionStep(cut=REPLACED, reply=self.hello())
        joined, self.joined, self._head = not self.joined, True, frame.generation
        return SessionStep(joined=joined)
