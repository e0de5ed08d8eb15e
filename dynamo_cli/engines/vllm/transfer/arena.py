"""Memory that a prefill engine writes KV blocks to and decode engines read them from.

A memfd without any name: who reads opens it through /proc/PID/fd, which the processes of one user
may do. It lives as long as somebody has it open or mapped, so that a reader is safe from the
writer's death; and nothing is left when all of them are gone.
"""

from __future__ import annotations

import mmap
import os
import secrets
from typing import NamedTuple

import torch

from dynamo_cli.errors import Corrupt

HEADER_BYTES = 4096
ID_BYTES = 16


class ArenaRef(NamedTuple):
    """How another process finds an arena; `arena_id` (hex) tells it from a later one."""

    pid: int
    fd: int
    arena_id: str


class Arena:
    """The writer's side.

    Args:
        slot_bytes: of one KV block over all layers.
        slots: how many there are.

    Attributes:
        memory: uint8 [slots, slot_bytes].
    """

    def __init__(self, slot_bytes: int, slots: int) -> None:
        self._fd = os.memfd_create("dynamo-llm:kv-arena", os.MFD_CLOEXEC)
        os.ftruncate(self._fd, HEADER_BYTES + slot_bytes * slots)
        self._map = mmap.mmap(self._fd, 0)
        arena_id = secrets.token_bytes(ID_BYTES)
        self._map[:ID_BYTES] = arena_id
        self.ref = ArenaRef(os.getpid(), self._fd, arena_id.hex())
        self.memory = _view(self._map, slot_bytes)


class RemoteArena:
    """The reader's side.

    Raises:
        Corrupt: there is no such arena any more.
    """

    def __init__(self, ref: ArenaRef, slot_bytes: int) -> None:
        try:
            fd = os.open(f"/proc/{ref.pid}/fd/{ref.fd}", os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise Corrupt(f"the prefill worker's memory is gone: {error.strerror}") from error
        try:
            self._map = mmap.mmap(fd, 0)
        except (OSError, ValueError) as error:
            raise Corrupt(f"the prefill worker's memory cannot be mapped: {error}") from error
        finally:
            os.close(fd)
        if self._map[:ID_BYTES].hex() != ref.arena_id:
            raise Corrupt("the prefill worker's memory is that of another life of it")
        self.memory = _view(self._map, slot_bytes)


def _view(memory: mmap.mmap, slot_bytes: int) -> torch.Tensor:
    return torch.frombuffer(memory, dtype=torch.uint8, offset=HEADER_BYTES).view(-1, slot_bytes)
