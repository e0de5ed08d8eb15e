"""Packets of control sockets: an encoded message of any size, with descriptors.

    small message:  the encoded message
    large message:  u8 0xC1 | u64 size of the encoded message, which is in a sealed memfd, whose
                    descriptor comes before those of the message

No encoded message begins with 0xC1, a byte that msgpack never uses.
"""

from __future__ import annotations

import array
import errno
import os
import socket
import struct
from collections.abc import Sequence
from typing import NamedTuple

from dynamo_cli.errors import Corrupt, TooLarge
from dynamo_cli.host.memory_file import sealed_memory
from dynamo_cli.ipc.codec import encode
from dynamo_cli.messages.base import Message

MAX_PACKET_BYTES = 1 << 16
"""A larger message travels in memory beside its packet: by default, the kernel takes no packets of
more than 208 KiB together."""

MAX_CONTROL_BYTES = 64 << 20
"""Bound on the size of one message between the supervisor and a process."""

MAX_DESCRIPTORS = 64
"""Most descriptors of one message: a link has six, a frontend one for each of its addresses."""

ANCILLARY_BYTES = socket.CMSG_SPACE((1 + MAX_DESCRIPTORS) * array.array("i").itemsize)

NO_ROOM = (
    *(errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM, errno.ENOSPC),
    *(errno.EMFILE, errno.ENFILE, errno.ETOOMANYREFS),
)
"""Errors that pass: the socket is full, or the system lacks memory or descriptors."""

IN_MEMORY = 0xC1
SIZE = struct.Struct("<BQ")


class Packet(NamedTuple):
    """What is sent in one go; it owns its descriptors."""

    data: bytes
    descriptors: list[int]

    @staticmethod
    def of(message: Message, descriptors: Sequence[int] = ()) -> Packet:
        """The packet of a message, with copies of descriptors.

        Raises:
            TooLarge: the message has more than `MAX_CONTROL_BYTES` or `MAX_DESCRIPTORS`.
            OSError: the descriptors cannot be copied.
        """
        data, count = encode(message), len(descriptors)
        if len(data) > MAX_CONTROL_BYTES or count > MAX_DESCRIPTORS:
            raise TooLarge(
                f"{type(message).__name__} has {len(data)} bytes and {count} descriptors; "
                f"{MAX_CONTROL_BYTES} and {MAX_DESCRIPTORS} may be sent"
            )
        packet = Packet(data, [])
        try:
            for descriptor in descriptors:
                packet.descriptors.append(os.dup(descriptor))
        except OSError:
            packet.close()
            raise
        return packet

    def in_memory(self) -> Packet:
        """The same with its message in memory, which takes one more descriptor.

        Raises:
            OSError: there is no memory or no descriptor for it now.
        """
        size = len(self.data)
        memory = sealed_memory("message", size)
        try:
            if os.pwrite(memory, self.data, 0) < size:
                raise OSError(errno.ENOMEM, "no memory for a message")
        except OSError:
            os.close(memory)
            raise
        return Packet(SIZE.pack(IN_MEMORY, size), [memory, *self.descriptors])

    def send(self, sock: socket.socket) -> None:
        """Send it. Raises `OSError` if it cannot be sent now, or the other end is gone."""
        if not self.descriptors:
            sock.send(self.data)
            return
        rights = array.array("i", self.descriptors)
        sock.sendmsg([self.data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])

    def content(self) -> bytes:
        """The encoded message; its memory, if it is in one, is closed.

        Raises:
            Corrupt: the memory is not what the packet says.
        """
        if not self.data or self.data[0] != IN_MEMORY:
            return self.data
        if len(self.data) != SIZE.size or not self.descriptors:
            raise Corrupt("a packet that names no memory")
        _, size = SIZE.unpack(self.data)
        memory = self.descriptors.pop(0)
        try:
            if size > MAX_CONTROL_BYTES or size != os.fstat(memory).st_size:
                raise Corrupt(f"a packet names {size} bytes of memory, which are not there")
            # Read and not mapped: whatever the other end does to the memory, this cannot fault.
            return os.pread(memory, size, 0)
        except OSError as error:
            raise Corrupt(f"the memory of a packet cannot be read: {error}") from error
        finally:
            os.close(memory)

    def close(self) -> None:
        """Close its descriptors."""
        for descriptor in self.descriptors:
            os.close(descriptor)


def send_at_once(sock: socket.socket, message: Message) -> None:
    """Send a message on a control socket that no `Control` has.

    Raises:
        OSError: it cannot be sent now, or the other end is gone.
        TooLarge: it has more than `MAX_CONTROL_BYTES`.
    """
    packet = Packet.of(message)
    if len(packet.data) > MAX_PACKET_BYTES:
        packet = packet.in_memory()
    try:
        packet.send(sock)
    finally:
        packet.close()
