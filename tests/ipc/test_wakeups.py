"""A reader that goes to sleep at the very moment when the writer sends.

Without the fences of `Ring`, both sides sometimes load a stale value: the reader sleeps, and the
writer does not see that it does. The window is some ten nanoseconds wide, so the test lets both
sides meet at this point many times, with small shifts.
"""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from dynamo_cli.ipc.link import RingFds
from dynamo_cli.ipc.ring import Ring

from .support import exit_code, fired, fork, ring

MEETINGS = 100_000
AT_MOST_S = 4.0
READER, WRITER = 0, 16
"""Index of the word in which each side counts its meetings; they are a cache line apart."""


def meet(words: memoryview, ours: int, theirs: int, number: int) -> None:
    """Wait for the other side; if both have a core, they leave within some ten nanoseconds."""
    words[ours] = number
    spins = 0
    while words[theirs] < number:
        spins += 1
        if spins > 2000:
            os.sched_yield()


def write(words: memoryview, writer: Ring) -> None:
    for number in range(1, MEETINGS + 1):
        meet(words, WRITER, READER, 2 * number)
        writer.push(b"x")
        meet(words, WRITER, READER, 2 * number + 1)


def read(words: memoryview, reader: Ring, fds: RingFds) -> int:
    """How often the reader slept although there was data, without a wake-up."""
    lost = delay = 0
    end = time.monotonic() + AT_MOST_S
    for number in range(1, MEETINGS + 1):
        meet(words, READER, WRITER, 2 * number)
        for _ in range(delay):
            pass
        asleep = reader.arm()
        delay = delay + 1 if asleep else max(0, delay - 1)  # shift the next one to the race
        meet(words, READER, WRITER, 2 * number + 1)
        lost += asleep and not fired(fds.data)
        reader.disarm()
        assert reader.drain() == [(b"x", False)]
        if time.monotonic() > end:
            words[READER] = 2 * MEETINGS + 2  # the writer must not wait any more
            break
    return lost


@contextmanager
def on_core(core: int) -> Iterator[None]:
    """Pin a side to a core of its own: on one core the two sides never race."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {sorted(before)[core % len(before)]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def test_nobody_sleeps_through_a_message() -> None:
    memory = mmap.mmap(-1, mmap.PAGESIZE)
    with memoryview(memory).cast("Q") as words, ring(1 << 24) as (writer, reader, fds):
        pid = fork(lambda: on_core(1)(write)(words, writer))
        lost = on_core(0)(read)(words, reader, fds)
        assert exit_code(pid) == 0
        assert lost == 0
    memory.close()
