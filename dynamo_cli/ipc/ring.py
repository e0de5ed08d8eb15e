"""A byte ring in shared memory between one writer and one reader.

    offset      what
    0           magic
    64          tail: bytes ever written   (only the writer stores it)
    128         head: bytes ever read      (only the reader stores it)
    192         reader_armed: 1 while the reader wants a wake-up for data
    256         writer_armed: 1 while the writer wants a wake-up for space
    4096        data area, a power of two

    record:  u64 header (length, MORE flag) | payload | padding to 8
    A record never wraps: what is left of the data area before the wrap is skipped by a PAD header.

Each word has its own cache line. The cursors only grow: `tail - head` is the number of bytes in the
ring, and a stale cursor shows too little data or too little space, never too much. A record counts
as written once the tail is stored, and as read once the head is stored, so a process that dies in
between leaves a valid ring.
"""

from __future__ import annotations

import mmap
import os
import struct
import threading

from dynamo_cli.errors import Corrupt, TooLarge

HEADER_BYTES = 4096
MAGIC = 0x314B4E494C4D4C44
MORE = 1 << 63
PAD = (1 << 64) - 1

# Indices of 64-bit words, eight to a cache line.
_MAGIC, _TAIL, _HEAD, _READER_ARMED, _WRITER_ARMED = 0, 8, 16, 24, 32
_U64 = struct.Struct("=Q")


class Ring:
    """One end of a ring: each process uses either the methods of the writer or of the reader.

    Args:
        memory: descriptor of `HEADER_BYTES` + capacity bytes of shared memory.
        data: eventfd that wakes the reader.
        space: eventfd that wakes the writer.

    Raises:
        Corrupt: the memory does not hold a ring.
    """

    def __init__(self, memory: int, data: int, space: int) -> None:
        size = os.fstat(memory).st_size
        self.capacity = size - HEADER_BYTES
        if self.capacity <= 0 or self.capacity & (self.capacity - 1):
            raise Corrupt(
                f"the size of a ring is {self.capacity} bytes, which is not a power of two"
            )
        self._map = mmap.mmap(memory, size)
        view = memoryview(self._map)
        self._words = view[:HEADER_BYTES].cast("Q")
        self._bytes = view[HEADER_BYTES:]
        if self._words[_MAGIC] != MAGIC:
            raise Corrupt("the shared memory does not begin with the magic number of a ring")
        self._data_fd, self._space_fd = data, space
        self._lock = threading.Lock()

    def _fence(self) -> None:
        """A full memory fence: loads after it are not executed before stores ahead of it.

        Python has no fence. Taking and releasing an uncontended lock costs 60 ns and is a locked
        read-modify-write on x86-64, which is a full fence. On ARMv8 an acquire followed by a
        release lets a store before and a load after both slip in between, past each other; with
        a second pair they cannot, since the second acquire stays behind the first release.
        """
        with self._lock:
            pass
        with self._lock:
            pass

    # -- writer ----------------------------------------------------------------------------

    def push(self, payload: bytes | memoryview, more: bool = False, *, wake: bool = True) -> bool:
        """Append a record, and wake the reader if it asked for that.

        Args:
            more: whether the record is a piece of a message and another piece follows.
            wake: False leaves it to a call of `wake`, which must follow.

        Returns:
            False if there is no room.

        Raises:
            TooLarge: the record would take more than half of the ring.
        """
        words, length = self._words, len(payload)
        need = 8 + ((length + 7) & ~7)
        if need > self.capacity // 2:
            raise TooLarge(f"{length} bytes do not fit into a ring of {self.capacity}")
        tail = words[_TAIL]
        offset = tail & (self.capacity - 1)
        room = self.capacity - offset
        padding = room if room < need else 0
        if tail + padding + need - words[_HEAD] > self.capacity:
            return False
        if padding:
            _U64.pack_into(self._bytes, offset, PAD)
            offset = 0
        _U64.pack_into(self._bytes, offset, length | MORE if more else length)
        self._bytes[offset + 8 : offset + 8 + length] = payload
        self._fence()  # store the record before the tail (needed on ARMv8)
        words[_TAIL] = tail + padding + need
        if wake:
            self.wake()
        return True

    def wake(self) -> None:
        """Wake the reader if it asked for that."""
        words = self._words
        self._fence()  # store the tail before reading whether the reader sleeps
        if words[_READER_ARMED]:
            words[_READER_ARMED] = 0
            os.eventfd_write(self._data_fd, 1)

    def arm_space(self) -> bool:
        """Ask for a wake-up when half of the ring is free; False if it is free already.

        Half of the ring has room for a record of a quarter and for the padding before the wrap.
        """
        self._words[_WRITER_ARMED] = 1
        self._fence()
        if self._free() >= self.capacity // 2:
            self._words[_WRITER_ARMED] = 0
            return False
        return True

    def _free(self) -> int:
        return self.capacity - (self._words[_TAIL] - self._words[_HEAD])

    # -- reader ----------------------------------------------------------------------------

    def drain(self, max_bytes: int = 1 << 62) -> list[tuple[bytes, bool]]:
        """Take records, as (payload, more), until the ring is empty or `max_bytes` are taken.

        Raises:
            Corrupt: a cursor or a length is impossible. The records before it were taken.
        """
        words = self._words
        head, tail = words[_HEAD], words[_TAIL]
        if head == tail:
            return []
        if not 0 < tail - head <= self.capacity or tail & 7 or head & 7:
            raise Corrupt(f"cursors {head} and {tail} in a ring of {self.capacity}")
        self._fence()  # read the tail before the records ahead of it
        records: list[tuple[bytes, bool]] = []
        limit = min(tail, head + max_bytes)
        while head < limit:
            try:
                head = self._read(head, tail, records)
            except Corrupt:
                if not records:
                    raise
                break  # the next call raises it
        self._fence()  # copy all records before the writer may overwrite them
        words[_HEAD] = head
        self._fence()  # store the head before reading whether the writer waits
        if words[_WRITER_ARMED] and self._free() >= self.capacity // 2:
            words[_WRITER_ARMED] = 0
            os.eventfd_write(self._space_fd, 1)
        return records

    def _read(self, head: int, tail: int, records: list[tuple[bytes, bool]]) -> int:
        """Append the record at `head` unless it is padding; returns the cursor behind it."""
        offset = head & (self.capacity - 1)
        (header,) = _U64.unpack_from(self._bytes, offset)
        if header == PAD:
            return self._checked(head + self.capacity - offset, tail)
        length = header & ~MORE
        if length > self.capacity // 2 or offset + 8 + length > self.capacity:
            raise Corrupt(f"a record of {length} bytes at {offset} of {self.capacity}")
        behind = self._checked(head + 8 + ((length + 7) & ~7), tail)
        records.append((bytes(self._bytes[offset + 8 : offset + 8 + length]), bool(header & MORE)))
        return behind

    @staticmethod
    def _checked(cursor: int, tail: int) -> int:
        if cursor > tail:
            raise Corrupt(f"a record that ends at {cursor}, beyond the tail {tail}")
        return cursor

    def arm(self) -> bool:
        """Ask for a wake-up when data arrives; False if there is data already."""
        self._words[_READER_ARMED] = 1
        self._fence()
        if self._words[_TAIL] != self._words[_HEAD]:
            self._words[_READER_ARMED] = 0
            return False
        return True

    def disarm(self) -> None:
        """Ask for no wake-up: the reader is awake."""
        self._words[_READER_ARMED] = 0

    # -- both ------------------------------------------------------------------------------

    def used_bytes(self) -> int:
        """Bytes that were written but not read yet."""
        return self._words[_TAIL] - self._words[_HEAD]

    def close(self) -> None:
        """Unmap the memory."""
        self._words.release()
        self._bytes.release()
        self._map.close()


def format_memory(memory: int) -> None:
    """Turn zeroed shared memory into an empty ring."""
    with mmap.mmap(memory, HEADER_BYTES) as header:
        _U64.pack_into(header, _MAGIC, MAGIC)
