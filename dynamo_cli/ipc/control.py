"""Control sockets between the supervisor and each child: one message per packet, with descriptors.

The kernel delivers each packet whole, with its descriptors, even if the sender dies meanwhile; end
of file means that the other side is gone.
"""

from __future__ import annotations

import array
import os
import socket
from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol

from dynamo_cli.ipc.codec import Decoder, encode
from dynamo_cli.messages.base import Message
from dynamo_cli.messages.flows import ToSupervisor

MAX_PACKET_BYTES = 1 << 17
ANCILLARY_BYTES = socket.CMSG_SPACE(16 * array.array("i").itemsize)
"""Space for sixteen descriptors; a message carries six at most."""


class Controls(Protocol):
    """The way to the control socket of a child."""

    def send(self, message: Message, descriptors: Sequence[int] = ()) -> None:
        """Send a message, with copies of descriptors; a child that is gone gets nothing."""

    def flush(self) -> bool:
        """Send what waits; False if some of it still waits."""


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
        self._waiting: deque[tuple[bytes, list[int]]] = deque()
        self.closed = False

    @staticmethod
    def pair() -> tuple[Control, socket.socket]:
        """Make a control socket: the supervisor's end, and the raw socket for the child."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return Control(ours, ToSupervisor), theirs

    def fileno(self) -> int:
        """The descriptor of the socket, to poll it."""
        return self._socket.fileno()

    def send(self, message: Message, descriptors: Sequence[int] = ()) -> None:
        """Send a message, or queue it with copies of its descriptors until the next `flush`.

        If the other end is gone, the message is dropped.
        """
        if self.closed:
            return
        self._waiting.append((encode(message), [os.dup(fd) for fd in descriptors]))
        self.flush()

    def flush(self) -> bool:
        """Send queued messages; False if some of them still wait."""
        while self._waiting:
            packet, descriptors = self._waiting[0]
            rights = array.array("i", descriptors)
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if descriptors else []
            try:
                self._socket.sendmsg([packet], ancillary)
            except BlockingIOError:
                return False
            except (BrokenPipeError, ConnectionResetError):
                self._forget_waiting()
                return True
            self._waiting.popleft()
            _close_all(descriptors)
        return True

    def receive(self) -> list[tuple[Any, list[int]]]:
        """All messages that have arrived, with their descriptors; end of file sets `closed`."""
        messages = []
        while not self.closed:
            try:
                # Not socket.recv_fds: it drops the flags, so descriptors would survive exec.
                packet, ancillary, _, _ = self._socket.recvmsg(
                    MAX_PACKET_BYTES, ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                break
            except ConnectionResetError:
                # The other end closed before it had read everything. The kernel reports that
                # once, first; the packets that the other end had sent follow.
                continue
            if not packet:
                self.closed = True
                break
            descriptors = array.array("i", b"".join(data for _, _, data in ancillary))
            messages.append((self._decoder(packet), descriptors.tolist()))
        return messages

    def close(self) -> None:
        """Close the socket and drop queued messages."""
        self.closed = True
        self._forget_waiting()
        self._socket.close()

    def _forget_waiting(self) -> None:
        for _, descriptors in self._waiting:
            _close_all(descriptors)
        self._waiting.clear()


def _close_all(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
