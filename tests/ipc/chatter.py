"""A process that sends to its peer as fast as it can, and checks every byte that it receives.

It keeps notes in shared memory, which survives the process: a row of numbers for each side, and the
number of committed messages for each side and each generation of the link.
"""

from __future__ import annotations

import asyncio
import mmap
import random
import socket
import struct
from collections.abc import Callable
from typing import Any
from zlib import crc32

from dynamo_cli.ipc.link import Link
from dynamo_cli.ipc.switchboard import Switchboard
from dynamo_cli.topology import ProcessId

HEAD = struct.Struct("=QQI")
POOL = random.Random(1).randbytes(1 << 15)
BURST = 10
REST_S = 0.001

LINKED, HEARD, TOTAL, WRONG, LOST = range(5)
"""Columns of a side: generation of its link; messages received on it, in total, wrong, and lost."""


class Notes:
    """Numbers in shared memory that one side writes, and the test and the other side read."""

    def __init__(self, generations: int) -> None:
        self._memory = mmap.mmap(-1, 8 * (16 + 2 * generations))
        self._words = memoryview(self._memory).cast("Q")

    def get(self, side: int, what: int) -> int:
        return self._words[side * 8 + what]

    def put(self, side: int, what: int, value: int) -> None:
        self._words[side * 8 + what] = value

    def add(self, side: int, what: int) -> None:
        self._words[side * 8 + what] += 1

    def committed(self, side: int, generation: int) -> int:
        return self._words[16 + 2 * generation + side]

    def commit(self, side: int, generation: int, count: int) -> None:
        self._words[16 + 2 * generation + side] = count

    def close(self) -> None:
        self._words.release()
        self._memory.close()


class Chatter:
    """One process of one side, which is the handler of its switchboard."""

    def __init__(self, control: socket.socket, side: int, notes: Notes, seed: int) -> None:
        self.board = Switchboard(control, self)
        self._side, self._notes = side, notes
        self._random = random.Random(seed)
        self._link: Link | None = None
        self._said = self._heard = 0

    # -- hearing -----------------------------------------------------------------------------

    def on_link(self, peer: ProcessId) -> None:
        self._link = self.board.links[peer]
        self._said = self._heard = 0
        self._notes.put(self._side, HEARD, 0)
        self._notes.put(self._side, LINKED, self._link.generation)

    def on_message(self, _: ProcessId, payload: bytes) -> None:
        assert self._link is not None
        generation, number, check = HEAD.unpack_from(payload)
        whole = crc32(memoryview(payload)[HEAD.size :]) == check
        if not whole or (generation, number) != (self._link.generation, self._heard):
            self._notes.add(self._side, WRONG)
        self._heard += 1
        self._notes.put(self._side, HEARD, self._heard)
        self._notes.add(self._side, TOTAL)

    def on_unlink(self, _: ProcessId, reason: str) -> None:
        assert self._link is not None
        if self._heard < self._notes.committed(1 - self._side, self._link.generation):
            self._notes.add(self._side, LOST)
        if "corrupt" in reason:
            self._notes.add(self._side, WRONG)
        self._link = None

    def on_control(self, message: Any) -> None:
        raise AssertionError(message)

    # -- saying ------------------------------------------------------------------------------

    def say(self) -> bool:
        """Send a few messages; False if there is no link or the ring is full."""
        for _ in range(BURST):
            if self._link is None or self._link.pending_bytes:
                return False
            self._link.send(self._sentence(self._link.generation))
            self._said += 1
            if not self._link.pending_bytes:
                self._notes.commit(self._side, self._link.generation, self._said)
        return True

    def _sentence(self, generation: int) -> bytes:
        """A random message: mostly short, but one in eight can be too long for one record."""
        length = self._random.randrange(1 << (14 if self._random.random() < 0.125 else 9))
        start = self._random.randrange(len(POOL) - length)
        body = POOL[start : start + length]
        return HEAD.pack(generation, self._said, crc32(body)) + body

    # -- living ------------------------------------------------------------------------------

    def poll_for_ever(self) -> None:
        """Send without end; wait a little if the ring is full, or for a link if there is none."""
        while True:
            self.board.poll(0 if self.say() else REST_S if self._link else None)

    def serve_for_ever(self, new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
        loop = new_loop()
        self.board.attach(loop)

        def turn() -> None:
            if self.say():
                loop.call_soon(turn)
            else:
                loop.call_later(REST_S, turn)

        turn()
        loop.run_forever()
