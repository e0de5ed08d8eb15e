"""A reader that goes to sleep in the very moment in which the writer sends.

Without the fences of `Ring` both sides now and then look too early: the reader sleeps, and the
writer has not seen that it does. That takes some ten nanoseconds of bad luck, so both are brought
together many times, at the moment when either may be the first.
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
"""Where each side says how often it has come, in words: a cache line apart."""


def meet(words: memoryview, ours: int, theirs: int, number: int) -> None:
    """Both sides leave within a few ten nanoseconds of each other, if both have a core."""
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
    """How often it was asleep with something there and nobody to wake it."""
    lost = delay = 0
    end = time.monotonic() + AT_MOST_S
    for number in range(1, MEETINGS + 1):
        meet(words, READER, WRITER, 2 * number)
        for _ in range(delay):
            pass
        asleep = reader.arm()
        delay = delay + 1 if asleep else max(0, delay - 1)  # towards the moment when both meet
        meet(words, READER, WRITER, 2 * number + 1)
        lost += asleep and not fired(fds.data)
        reader.disarm()
        assert reader.drain() == [(b"x", False)]
        if time.monotonic() > end:
            words[READER] = 2 * MEETINGS + 2  # the writer need not wait any more
            break
    return lost


@contextmanager
def on_core(core: int) -> Iterator[None]:
    """Two sides on one core never meet, so each takes one of those that there are."""
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
