"""A reader that goes to sleep in the very moment in which the writer sends.

Without the fences of `Ring` both sides now and then look too early: the reader sleeps, and the
writer has not seen that it does. It takes some ten nanoseconds of bad luck, so this is tried often.
"""

from __future__ import annotations

import os
import select
import time

from dynamo_cli.ipc.link import RingFds
from dynamo_cli.ipc.ring import Ring

from .support import exit_code, fired, fork, ring

ROUNDS = 60_000
AT_MOST_S = 3.0
LOST_MS = 2000
LAST = b"last"


def send_whenever_it_was_read(writer: Ring) -> None:
    """The moment after a read is when the reader arms; the delay sweeps over that moment."""
    end = time.monotonic() + AT_MOST_S
    for number in range(ROUNDS):
        while writer.used_bytes():
            os.sched_yield()
        for _ in range(number % 40):
            pass
        writer.push(b"x")
        if time.monotonic() > end:
            break
    while not writer.push(LAST):
        os.sched_yield()


def read_and_sleep(reader: Ring, fds: RingFds) -> int:
    """Until the last message; how often it slept through one."""
    poller = select.poll()
    poller.register(fds.data, select.POLLIN)
    lost = 0
    while True:
        if reader.arm():
            if not poller.poll(LOST_MS):
                lost += 1
            fired(fds.data)
        if (LAST, False) in reader.drain():
            return lost


def test_nobody_sleeps_through_a_message() -> None:
    with ring(1 << 12) as (writer, reader, fds):
        pid = fork(lambda: send_whenever_it_was_read(writer))
        assert read_and_sleep(reader, fds) == 0
        assert exit_code(pid) == 0
