"""Control sockets between the supervisor and each child: one message per packet, with descriptors.

The kernel delivers each packet whole, with its descriptors, even if the sender dies meanwhile; end
of file means that the other side is gone.
"""

from __future__ import annotations

import array
import socket
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from dynamo_cli.errors import Corrupt
from dynamo_cli.ipc.codec import Decoder
from dynamo_cli.ipc.packet import ANCILLARY_BYTES, MAX_PACKET_BYTES, NO_ROOM, Packet
from dynamo_cli.messages.base import Message
from dynamo_cli.messages.flows import ToSupervisor

_TRUNCATED, _WITHOUT_DESCRIPTORS = int(socket.MSG_TRUNC), int(socket.MSG_CTRUNC)
"""As plain numbers: arithmetic with the flags of `socket` takes microseconds."""

AGAIN_S = 0.02
"""Seconds until messages that wait are sent again."""

MOST_AT_ONCE = 256
"""Most messages that are received in one go: the other end may send as fast as they are handled."""

Later = Callable[[float, Callable[[], None]], object]
"""Calls a function after a number of seconds."""


class Controls(Protocol):
    """The way to the control socket of a child."""

    def send(self, message: Message, descriptors: Sequence[int] = ()) -> None:
        """Send a message, with copies of descriptors; a child that is gone gets nothing."""

    def send_state(self, message: Message) -> None:
        """Send a message that says anew what all earlier ones of its type have said: of those that
        still wait, only the newest is sent."""

    def flush(self) -> bool:
        """Send what waits; False if some of it still waits."""


@dataclass(slots=True, eq=False)
class _Unsent:
    """A packet that waits; `state` is the type of its message if a newer one replaces it."""

    packet: Packet
    state: type[Message] | None


class Control:
    """One end of a control socket; no method blocks.

    Args:
        sock: a SOCK_SEQPACKET socket, which this object closes.
        receives: union of the messages that the other end may send.

    Attributes:
        closed: whether the other end is gone.
    """

    def __init__(self, sock: socket.socket, receives: Any) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._decoder = Decoder(receives)
        self._waiting: deque[_Unsent] = deque()
        self._later: Later | None = None
        self._scheduled = False
        self.closed = False

    def attach(self, later: Later) -> None:
        """Have messages that wait sent by the timers of an event loop.

        Else they wait for the next `send` or `flush`, for which there may be no reason.
        """
        self._later = later

    @staticmethod
    def pair() -> tuple[Control, socket.socket]:
        """Make a control socket: the supervisor's end, and the raw socket for the child."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return Control(ours, ToSupervisor), theirs

    def fileno(self) -> int:
        """The descriptor of the socket, to poll it."""
        return self._socket.fileno()

    def send(self, message: Message, descriptors: Sequence[int] = ()) -> None:
        """Send a message, or queue it with copies of its descriptors; see `attach` and `flush`.

        If the other end is gone, the message is dropped.
        """
        if self.closed:
            return
        self._waiting.append(_Unsent(Packet.of(message, descriptors), None))
        self._send_waiting()

    def send_state(self, message: Message) -> None:
        """See `Controls`."""
        if self.closed:
            return
        new = _Unsent(Packet.of(message), type(message))
        for old in [one for one in self._waiting if one.state is new.state]:
            self._waiting.remove(old)
            old.packet.close()
        self._waiting.append(new)
        self._send_waiting()

    def _send_waiting(self) -> None:
        if not self.flush() and self._later is not None and not self._scheduled:
            self._scheduled = True
            self._later(AGAIN_S, self._again)

    def _again(self) -> None:
        self._scheduled = False
        self._send_waiting()

    def flush(self) -> bool:
        """Send queued messages; False if some of them still wait."""
        while self._waiting:
            first = self._waiting[0]
            try:
                if len(first.packet.data) > MAX_PACKET_BYTES:
                    first.packet = first.packet.in_memory()
                first.packet.send(self._socket)
            except (BrokenPipeError, ConnectionResetError):
                self._forget_waiting()
                return True
            except OSError as error:
                if error.errno in NO_ROOM:
                    return False
                self._waiting.popleft().packet.close()  # else it would stop all that come after it
                raise
            self._waiting.popleft().packet.close()
        return True

    def receive(self, most: int = MOST_AT_ONCE) -> Iterator[tuple[Any, list[int]]]:
        """Messages that have arrived, with their descriptors; end of file sets `closed`.

        Each is taken when it is asked for: whatever happens while one is handled, those behind it
        can be received later.

        Args:
            most: number after which the others are left for the next call.

        Raises:
            Corrupt: a packet is no message of the union; what comes after it can be received.
        """
        for _ in range(most):
            if (received := self._packet()) is None:
                return
            packet, flags = received
            yield self._message(packet, flags), packet.descriptors

    def _packet(self) -> tuple[Packet, int] | None:
        """The next packet and its flags; None if there is none now."""
        while not self.closed:
            try:
                # Not socket.recv_fds: it drops the flags, so descriptors would survive exec.
                data, ancillary, flags, _ = self._socket.recvmsg(
                    MAX_PACKET_BYTES, ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                return None
            except ConnectionResetError:
                # The other end closed before it had read everything. The kernel reports that
                # once, first; the packets that the other end had sent follow.
                continue
            if data:
                descriptors = array.array("i", b"".join(data for _, _, data in ancillary))
                return Packet(data, descriptors.tolist()), flags
            self.closed = True
        return None

    def _message(self, packet: Packet, flags: int) -> Message:
        try:
            if flags & _TRUNCATED:
                raise Corrupt(f"a packet of more than {MAX_PACKET_BYTES} bytes")
            if flags & _WITHOUT_DESCRIPTORS:
                raise Corrupt("a packet whose descriptors this process has no room for")
            return self._decoder(packet.content())
        except Corrupt:
            packet.close()
            raise

    def close(self) -> None:
        """Close the socket and drop queued messages."""
        self.closed = True
        self._forget_waiting()
        self._socket.close()

    def _forget_waiting(self) -> None:
        for one in self._waiting:
            one.packet.close()
        self._waiting.clear()
