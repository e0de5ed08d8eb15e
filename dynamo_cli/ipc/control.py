"""Control sockets: one message a packet, descriptors beside it.

A packet keeps its borders and its descriptors whatever happens to the sender, and the end of the
file tells that the other side is gone.
"""

from __future__ import annotations

import array
import os
import socket
from collections import deque
from collections.abc import Sequence
from typing import Any

from dynamo_cli.ipc.codec import Decoder, encode
from dynamo_cli.messages.base import Message
from dynamo_cli.messages.flows import ToSupervisor

MAX_PACKET_BYTES = 1 << 17
ANCILLARY_BYTES = socket.CMSG_SPACE(16 * array.array("i").itemsize)
"""Room for sixteen descriptors; six is the most that a message brings."""


class Control:
    """One end of a control socket; never blocks.

    Args:
        sock: a SOCK_SEQPACKET socket, owned from now on.
        receives: union of the messages that come from the other end.

    Attributes:
        closed: the other end is gone.
    """

    def __init__(self, sock: socket.socket, receives: Any) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._decoder = Decoder(receives)
        self._waiting: deque[tuple[bytes, list[int]]] = deque()
        self.closed = False

    @staticmethod
    def pair() -> tuple[Control, socket.socket]:
        """The supervisor's end, and the socket that goes to the child."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return Control(ours, ToSupervisor), theirs

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, message: Message, descriptors: Sequence[int] = ()) -> None:
        """Send, or keep (with copies of the descriptors) until `flush`; to nobody: dropped."""
        if self.closed:
            return
        self._waiting.append((encode(message), [os.dup(fd) for fd in descriptors]))
        self.flush()

    def flush(self) -> bool:
        """Send what waits; False: some of it still does."""
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
        """Every message that has come, with its descriptors; sets `closed` at the end."""
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
                # The other end has closed with something unread. The kernel says so once and
                # before all else; what was sent until then comes after it.
                continue
            if not packet:
                self.closed = True
                break
            descriptors = array.array("i", b"".join(data for _, _, data in ancillary))
            messages.append((self._decoder(packet), descriptors.tolist()))
        return messages

    def close(self) -> None:
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
