"""How fast a link is: round trips and streams of messages between two uvloop processes.

python -m tests.benchmarks.links [--round-trips N] [--messages N]
"""

from __future__ import annotations

import argparse
import multiprocessing
import socket
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import uvloop

from dynamo_cli.ipc.control import Control
from dynamo_cli.ipc.link import Link
from dynamo_cli.ipc.switchboard import Switchboard, join
from dynamo_cli.messages.lifecycle import Stop
from dynamo_cli.topology import LINKS, ProcessId, Role

HERE = ProcessId(Role.PROCESSOR, 0)
THERE = ProcessId(Role.WORKER, 0)
SPEC = next(spec for spec in LINKS if (spec.a, spec.b) == (HERE.role, THERE.role))
SIZES_BYTES = (64, 1024, 16 * 1024, 256 * 1024)
WARM_UP = 200
AHEAD_BYTES = 1 << 20
"""Number of messages after which a sender waits until the reader has caught up."""


class Side:
    """A switchboard on a loop, with one link."""

    def __init__(self, control: socket.socket) -> None:
        self.loop = uvloop.new_event_loop()
        self.board = Switchboard(control, self)
        self.link: Link | None = None
        self.on_payload: Callable[[bytes], None] = lambda _: None

    def on_link(self, peer: ProcessId) -> None:
        self.link = self.board.links[peer]

    def on_message(self, _: ProcessId, payload: bytes) -> None:
        self.on_payload(payload)

    def on_unlink(self, peer: ProcessId, reason: str) -> None:
        self.loop.stop()

    def on_control(self, _: Any) -> None:
        self.loop.stop()

    def linked(self) -> Link:
        """Wait for the link; from then on the loop serves it."""
        while self.link is None:
            self.board.poll(None)
        self.board.attach(self.loop)
        return self.link


def echo(control: socket.socket) -> None:
    """The other process, which sends back each message of a round trip, and the last of a
    stream."""
    side = Side(control)

    def answer(payload: bytes) -> None:
        if payload[:1] == b"?":
            assert side.link is not None
            side.link.send(payload)

    side.on_payload = answer
    side.linked()
    side.loop.run_forever()


def round_trips(side: Side, link: Link, size_bytes: int, count: int) -> list[int]:
    """Return the sorted times of single round trips, ns. Both sides sleep between two of them."""
    payload = b"?" * size_bytes
    times = [time.perf_counter_ns()]

    def on_answer(_: bytes) -> None:
        times.append(time.perf_counter_ns())
        if len(times) > count + WARM_UP:
            side.loop.stop()
        else:
            link.send(payload)

    side.on_payload = on_answer
    link.send(payload)
    side.loop.run_forever()
    return sorted(end - start for start, end in pairwise(times[WARM_UP:]))


def stream_s(side: Side, link: Link, size_bytes: int, count: int) -> float:
    """Return the time until the other side has read `count` messages, seconds."""
    payload = b"." * size_bytes
    left = count

    def send() -> None:
        nonlocal left
        while left and link.pending_bytes < AHEAD_BYTES:
            link.send(payload)
            left -= 1
        if left:
            side.loop.call_later(0.0001, send)
        else:
            link.send(b"?")

    side.on_payload = lambda _: side.loop.stop()
    start = time.perf_counter()
    side.loop.call_soon(send)
    side.loop.run_forever()
    return time.perf_counter() - start


def measure(side: Side, link: Link, trips: int, messages: int) -> None:
    print(f"{'bytes':>8} {'p50 us':>8} {'p99 us':>8} {'messages/s':>12} {'MiB/s':>8}")
    for size in SIZES_BYTES:
        times = round_trips(side, link, size, trips)
        p50_us, p99_us = times[len(times) // 2] / 1000, times[len(times) * 99 // 100] / 1000
        count = min(messages, (1 << 30) // size)
        rate = count / stream_s(side, link, size, count)
        mib_s = rate * size / (1 << 20)
        print(f"{size:8} {p50_us:8.1f} {p99_us:8.1f} {rate:12,.0f} {mib_s:8,.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(description="How fast a link is.")
    parser.add_argument("--round-trips", type=int, default=20_000)
    parser.add_argument("--messages", type=int, default=200_000)
    options = parser.parse_args()
    here, ours = Control.pair()
    there, theirs = Control.pair()
    process = multiprocessing.get_context("spawn").Process(target=echo, args=(theirs,))
    process.start()
    theirs.close()
    join(here, there, HERE, THERE, spec=SPEC, generation=1)
    side = Side(ours)
    measure(side, side.linked(), options.round_trips, options.messages)
    there.send(Stop())
    process.join()


if __name__ == "__main__":
    main()
