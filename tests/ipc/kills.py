"""Kills either end of a link again and again, at any instruction, and links it again.

    python -m tests.ipc.kills KILLS

Nothing may hang, no message may be wrong, missing or delivered twice, and everything that a killed
process had committed must reach the other one.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import sys
import time

import uvloop

from dynamo_cli.ipc.switchboard import join
from dynamo_cli.messages.lifecycle import LinkDown
from dynamo_cli.units import KIB
from tests.ipc.chatter import HEARD, LINKED, LOST, TOTAL, WRONG, Chatter, Notes
from tests.ipc.support import HERE, THERE, Party, exit_code, spec

ENOUGH = 10
"""After so many messages a link is known to work."""
PATIENCE_S = 10.0
SIDES = (0, 1)


class Pair:
    """A supervisor with two processes that send to each other."""

    def __init__(self, kills: int) -> None:
        self.notes = Notes(2 * kills + 2)
        self.generation = 0
        self._random = random.Random()
        self._parties = [Party(HERE), Party(THERE)]
        self._pids = [self._fork(0), self._fork(1)]
        self._join()

    def _fork(self, side: int) -> int:
        """Start a side, in one of the ways in which processes serve their links."""
        way, seed = self._random.choice(("poll", "asyncio", "uvloop")), self._random.random()

        def main(control: socket.socket) -> None:
            chatter = Chatter(control, side, self.notes, hash(seed))
            if way == "poll":
                chatter.poll_for_ever()
            chatter.serve_for_ever(
                uvloop.new_event_loop if way == "uvloop" else asyncio.new_event_loop
            )

        return self._parties[side].fork(main, self._parties[1 - side])

    def _join(self) -> None:
        self.generation += 1
        a, b = self._parties
        join(
            a.control,
            b.control,
            HERE,
            THERE,
            spec=spec(16 * KIB, 16 * KIB),
            generation=self.generation,
        )

    def kill(self, *victims: int) -> None:
        """Kill sides and start them again; now and then the peer hears only of the new link."""
        for side in victims:
            self._end(side)
        for side in victims:
            dead = self._parties[side].process.name
            if self._random.random() < 0.5:
                down = LinkDown(dead, self.generation, "killed")
                self._parties[1 - side].control.send(down)
            self._parties[side] = Party(self._parties[side].process)
            self._pids[side] = self._fork(side)
        self._join()

    def _end(self, side: int) -> None:
        os.kill(self._pids[side], signal.SIGKILL)
        assert exit_code(self._pids[side]) == -signal.SIGKILL  # it lived until now
        self._parties[side].close()

    def wait_until_both_hear(self) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not all(self._hears(side) for side in SIDES):
            assert time.monotonic() < deadline, f"generation {self.generation} hangs"
            time.sleep(0.0002)

    def _hears(self, side: int) -> bool:
        linked = self.notes.get(side, LINKED) == self.generation
        return linked and self.notes.get(side, HEARD) >= ENOUGH

    def close(self) -> None:
        for side in SIDES:
            self._end(side)
        self.notes.close()


def main(kills: int) -> None:
    """Kill one side, or both, so many times; then look at what arrived."""
    chance = random.Random()
    pair = Pair(kills)
    try:
        for _ in range(kills):
            if chance.random() < 0.8:  # else it dies while it starts
                pair.wait_until_both_hear()
            time.sleep(chance.random() * 0.003)
            pair.kill(*chance.choice(((0,), (1,), (0, 1))))
        pair.wait_until_both_hear()
        for side in SIDES:
            assert pair.notes.get(side, WRONG) == 0
            assert pair.notes.get(side, LOST) == 0
            assert pair.notes.get(side, TOTAL) > ENOUGH * kills // 2
    finally:
        pair.close()


if __name__ == "__main__":
    main(int(sys.argv[1]))
