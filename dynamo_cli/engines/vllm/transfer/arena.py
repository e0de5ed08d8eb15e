"""Shared memory that a prefill engine writes KV blocks to and decode engines read them from.

It is a memfd without a name. Readers open it through /proc/PID/fd, which processes of the same user
may do. It lives as long as a process has it open or mapped: a reader can go on when the writer has
died, and nothing is left when all of them are gone.

    0      arena id    16 bytes   random, so that a pid or descriptor used again is noticed
    16     layout      16 bytes   of both engines' caches, which must be the same
    4096   stamps      int64 per slot: what the slot holds
    ...    slots       from the next page on

A stamp only grows. Each transfer has a base, and three stamps of its own: its base plus `WRITING`,
`WRITTEN` or `LOST`. A reader waits for WRITTEN, copies, and checks the stamps again: a higher one
means that the slot was given to another transfer meanwhile. So a release that comes too early costs
a copy, but never gives a wrong token. Stamps and memory are written in separate calls of torch.
Each call releases and takes the interpreter's lock, which orders the writes for other cores too.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import secrets
import struct
from pathlib import Path
from typing import NamedTuple

import torch

from dynamo_cli.errors import Corrupt
from dynamo_cli.host.optional import may_fail

PAGE_BYTES = 4096
ID_BYTES = 16
WORD_BYTES = 8
HEADER = struct.Struct(f"{ID_BYTES}s{ID_BYTES}sQQ")  # arena id, layout, slots, bytes of each

WRITING, WRITTEN, LOST, STAMPS = 1, 2, 3, 4
"""What is added to the base of a transfer for its stamps, and the distance between two bases."""

GONE, OTHER_LAYOUT = "arena_gone", "other_layout"
NOT_WRITTEN, TAKEN_BACK = "not_written", "taken_back"
"""Why slots cannot be read."""


class Unreadable(Corrupt):
    """Slots cannot be read; `reason` is one of the names above, and is counted."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"KV blocks cannot be taken from the prefill worker: {reason}.")
        self.reason = reason


class ArenaRef(NamedTuple):
    """How another process finds an arena.

    Attributes:
        pid: process that has made it.
        fd: its descriptor in that process.
        arena_id: hexadecimal; tells it from a later arena with the same pid and descriptor.
    """

    pid: int
    fd: int
    arena_id: str

    @property
    def path(self) -> Path:
        """The file under which another process can open it."""
        return Path(f"/proc/{self.pid}/fd/{self.fd}")


class _Views(NamedTuple):
    """An arena as tensors.

    Attributes:
        stamps: int64 [slots].
        memory: int64 [slots, words].
    """

    stamps: torch.Tensor
    memory: torch.Tensor


class Arena:
    """The writer's side of an arena.

    Args:
        layout: digest of the layout of the engine's cache, 16 bytes.
        slot_bytes: size of one KV block over all layers.
        slots: number of slots.

    Attributes:
        stamps, memory: see `_Views`.
    """

    def __init__(self, layout: bytes, slot_bytes: int, slots: int) -> None:
        self._fd = os.memfd_create("dynamo-llm:kv-arena", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self._fd, _data_offset(slots) + slot_bytes * slots)
        # An access to a mapping of a file that cannot shrink never faults.
        with may_fail(
            "fcntl(F_ADD_SEALS)", "a broken process could shrink the memory of KV blocks"
        ):
            fcntl.fcntl(self._fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
        mapped = mmap.mmap(self._fd, 0)
        arena_id = secrets.token_bytes(ID_BYTES)
        HEADER.pack_into(mapped, 0, arena_id, layout, slots, slot_bytes)
        self.ref = ArenaRef(os.getpid(), self._fd, arena_id.hex())
        self.stamps, self.memory = _views(mapped, slots, slot_bytes)

    def close(self) -> None:
        """Close the descriptor; the memory is freed with the last view of it."""
        os.close(self._fd)


class RemoteArena:
    """The reader's side of an arena.

    Attributes:
        stamps, memory: see `_Views`.

    Raises:
        Unreadable: the arena does not exist any more, or its layout differs.
    """

    def __init__(self, ref: ArenaRef, layout: bytes) -> None:
        self._ref = ref
        mapped, self._inode = _open(ref)
        if len(mapped) < PAGE_BYTES:
            raise Unreadable(GONE)
        arena_id, theirs, slots, slot_bytes = HEADER.unpack_from(mapped)
        if arena_id.hex() != ref.arena_id:
            raise Unreadable(GONE)
        if theirs != layout:
            raise Unreadable(OTHER_LAYOUT)
        self.stamps, self.memory = _views(mapped, slots, slot_bytes)

    @property
    def alive(self) -> bool:
        """Whether its writer still has it open."""
        try:
            return self._ref.path.stat().st_ino == self._inode
        except OSError:
            return False


def _open(ref: ArenaRef) -> tuple[mmap.mmap, int]:
    """The mapped file, and its inode."""
    try:
        fd = os.open(ref.path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise Unreadable(GONE) from error
    try:
        return mmap.mmap(fd, 0), os.fstat(fd).st_ino
    except (OSError, ValueError) as error:  # ValueError: an empty file
        raise Unreadable(GONE) from error
    finally:
        os.close(fd)


def _data_offset(slots: int) -> int:
    stamps_end = PAGE_BYTES + slots * WORD_BYTES
    return -(-stamps_end // PAGE_BYTES) * PAGE_BYTES


def _views(mapped: mmap.mmap, slots: int, slot_bytes: int) -> _Views:
    stamps = torch.frombuffer(mapped, dtype=torch.int64, offset=PAGE_BYTES, count=slots)
    words = slots * (slot_bytes // WORD_BYTES)
    memory = torch.frombuffer(mapped, dtype=torch.int64, offset=_data_offset(slots), count=words)
    return _Views(stamps, memory.view(slots, -1))
