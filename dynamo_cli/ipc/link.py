"""A link to one peer: a ring in each direction, which carry messages of any size."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import NamedTuple

from dynamo_cli.errors import Corrupt, TooLarge
from dynamo_cli.host.memory_file import sealed_memory
from dynamo_cli.ipc.ring import HEADER_BYTES, Ring, format_memory
from dynamo_cli.topology import MAX_MESSAGE_BYTES, ProcessId
from dynamo_cli.units import MIB

MAX_PENDING_BYTES = 64 * MIB
"""Bound on the bytes that wait for a slow peer; further messages are refused. One message that is
larger than that may wait besides, so that it can be sent at all and delays no others, and so may
messages that are owed."""


@dataclass(frozen=True, slots=True)
class RingFds:
    """Descriptors of one ring: its memory, and the eventfds that announce data and free space."""

    memory: int
    data: int
    space: int

    def __iter__(self) -> Iterator[int]:
        return iter((self.memory, self.data, self.space))

    def close(self) -> None:
        """Close all three."""
        for descriptor in self:
            os.close(descriptor)


def create_ring(capacity_bytes: int, name: str) -> RingFds:
    """Make an empty ring; `name` only shows up in /proc.

    If a process could shrink the memory, its peer would die of SIGBUS.

    Raises:
        OSError: the system lacks memory or descriptors; none is left open.
    """
    flags = os.EFD_NONBLOCK | os.EFD_CLOEXEC
    made: list[int] = []
    try:
        made.append(sealed_memory(name, HEADER_BYTES + capacity_bytes))
        format_memory(made[0])
        for _ in range(2):
            made.append(os.eventfd(0, flags))
    except OSError:
        for descriptor in made:
            os.close(descriptor)
        raise
    return RingFds(*made)


@contextmanager
def passed_ring(capacity_bytes: int, name: str) -> Iterator[RingFds]:
    """An empty ring for others, who get copies of its descriptors. Raises as `create_ring`."""
    ring = create_ring(capacity_bytes, name)
    try:
        yield ring
    finally:
        ring.close()


def too_large(size_bytes: int) -> TooLarge:
    """The error of a request that needs a message of this size, which no link takes."""
    return TooLarge(
        f"the request needs a message of {size_bytes / MIB:.1f} MiB between two processes of the "
        f"server, which pass {MAX_MESSAGE_BYTES // MIB} MiB at most; ask for less in one request."
    )


ORDINARY, LARGE, OWED = range(3)
"""Kinds of waiting messages: those that `MAX_PENDING_BYTES` bounds, the one that is larger, and
those that are accepted whatever waits."""


class _WaitingPiece(NamedTuple):
    data: bytes | memoryview
    more: bool
    kind: int


class Link:
    """Both directions between this process and one incarnation of a peer.

    Messages longer than a quarter of the ring are sent in pieces. `send` never blocks: what does
    not fit into the ring waits here, in order, until the peer has made room.

    Args:
        generation: the number of this link; a restarted peer gets a link with another one.
        tx, rx: the rings to and from the peer; the link closes their descriptors.

    Attributes:
        refused_sends: number of messages refused because `MAX_PENDING_BYTES` were waiting, or
            because they are larger than `MAX_MESSAGE_BYTES`.
        pending_bytes: bytes of messages that were accepted but are not in the ring yet.
    """

    def __init__(self, peer: ProcessId, generation: int, tx: RingFds, rx: RingFds) -> None:
        self.peer = peer
        self.generation = generation
        self.refused_sends = 0
        self.pending_bytes = 0
        self._waiting_bytes = [0, 0, 0]  # the same by kind
        self.data_fd, self.space_fd = rx.data, tx.space
        self._tx = Ring(*tx)
        self._rx = Ring(*rx)
        self._piece = self._tx.capacity // 4 - 8  # a quarter with its header: see `arm_space`
        self._pending: deque[_WaitingPiece] = deque()
        self._partial: list[bytes] = []
        self._partial_bytes = 0
        self._broken: Corrupt | None = None
        os.close(tx.memory)
        os.close(rx.memory)
        self._descriptors = (tx.data, tx.space, rx.data, rx.space)

    # -- sending ---------------------------------------------------------------------------

    def send(self, payload: bytes, *, owed: bool = False, wake: bool = True) -> bool:
        """Send a message, or keep it until the ring has room.

        Args:
            owed: whether the message is accepted however much is waiting; it must not be larger
                than `MAX_MESSAGE_BYTES`.
            wake: False if a call of `wake` follows, before which the peer may sleep on.

        Returns:
            False if the message was refused because too much is waiting already, or because it is
            larger than `MAX_MESSAGE_BYTES`, for which the peer would end.
        """
        if not self._pending and len(payload) <= self._piece and self._tx.push(payload, wake=wake):
            return True
        if len(payload) > MAX_MESSAGE_BYTES or not (owed or self._has_room(len(payload))):
            self.refused_sends += 1
            return False
        kind = OWED if owed else LARGE if len(payload) > MAX_PENDING_BYTES else ORDINARY
        self._pending.extend(self._pieces(payload, kind))
        self.pending_bytes += len(payload)
        self._waiting_bytes[kind] += len(payload)
        self.flush()
        return True

    def _has_room(self, size_bytes: int) -> bool:
        if size_bytes > MAX_PENDING_BYTES:
            return not self._waiting_bytes[LARGE]
        return self._waiting_bytes[ORDINARY] + size_bytes <= MAX_PENDING_BYTES

    def wake(self) -> None:
        """Wake the peer if it sleeps, so that it reads what was sent without that."""
        self._tx.wake()

    def _pieces(self, payload: bytes, kind: int) -> Iterator[_WaitingPiece]:
        """Cut a message into pieces that fit into the ring."""
        if len(payload) <= self._piece:
            yield _WaitingPiece(payload, False, kind)
            return
        view = memoryview(payload)
        for start in range(0, len(payload), self._piece):
            end = start + self._piece
            yield _WaitingPiece(view[start:end], end < len(payload), kind)

    def flush(self) -> None:
        """Move waiting pieces into the ring; ask for a wake-up if not all of them fit."""
        while self._pending:
            data, more, kind = self._pending[0]
            if self._tx.push(data, more):
                self._pending.popleft()
                self.pending_bytes -= len(data)
                self._waiting_bytes[kind] -= len(data)
            elif self._tx.arm_space():
                return

    def on_space(self) -> None:
        """The space eventfd fired: go on sending."""
        clear(self.space_fd)
        self.flush()

    def depth_bytes(self) -> int:
        """Bytes that were sent but that the peer has not read yet."""
        return self._tx.used_bytes() + self.pending_bytes

    # -- receiving -------------------------------------------------------------------------

    def receive(self, max_bytes: int = 1 << 62) -> list[bytes]:
        """Take the complete messages that have arrived.

        Args:
            max_bytes: stop after the record that reaches this number of bytes.

        Raises:
            Corrupt: the ring does not hold valid records. The messages before them were taken.
        """
        if self._broken is not None:
            raise self._broken
        records = self._rx.drain(max_bytes)
        if not self._partial and not any(more for _, more in records):
            return [payload for payload, _ in records]
        messages: list[bytes] = []
        for record in records:
            try:
                message = self._joined(*record)
            except Corrupt as error:
                self._broken = error
                if not messages:
                    raise
                break  # the next call raises it
            if message is not None:
                messages.append(message)
        return messages

    def _joined(self, payload: bytes, more: bool) -> bytes | None:
        """Add a piece; the whole message if this was its last one."""
        self._partial.append(payload)
        self._partial_bytes += len(payload)
        if self._partial_bytes > MAX_MESSAGE_BYTES:
            raise Corrupt(
                f"a message from {self.peer.name} is larger than {MAX_MESSAGE_BYTES} bytes"
            )
        if more:
            return None
        message = payload if len(self._partial) == 1 else b"".join(self._partial)
        self._partial, self._partial_bytes = [], 0
        return message

    def arm(self) -> bool:
        """Ask for a wake-up when data arrives; False if `receive` has something to do already."""
        return self._broken is None and self._rx.arm()

    def disarm(self) -> None:
        """Ask for no wake-up: the process is awake."""
        self._rx.disarm()

    def on_data(self) -> None:
        """The data eventfd fired: reset it."""
        clear(self.data_fd)

    def close(self) -> None:
        """Drop what waits and close all descriptors."""
        self._pending.clear()
        self._tx.close()
        self._rx.close()
        for descriptor in self._descriptors:
            os.close(descriptor)


def clear(eventfd: int) -> None:
    """Reset an eventfd."""
    with suppress(BlockingIOError):  # it was reset already
        os.eventfd_read(eventfd)
