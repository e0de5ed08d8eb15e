"""Two real processes with every kind of loop: one message at a time, and floods of messages."""

from __future__ import annotations

import asyncio
import itertools
import select
import socket
from collections.abc import Callable
from typing import Any

import pytest
import uvloop

from dynamo_cli.ipc.switchboard import Switchboard, join
from dynamo_cli.messages.lifecycle import Phase, PhaseChange, Stop
from dynamo_cli.topology import ProcessId

from .support import HERE, THERE, Party, exit_code, spec

WAYS = ("poll", "asyncio", "uvloop")
BOTH_WAYS = tuple(itertools.product(WAYS, WAYS))
ROUND_TRIPS = 8_000
PATIENCE_S = 60


class Player:
    """A process with a switchboard that ends when it is `done`."""

    def __init__(self, control: socket.socket) -> None:
        self.board = Switchboard(control, self)
        self.done = False
        self._loop: asyncio.AbstractEventLoop | None = None

    def on_link(self, peer: ProcessId) -> None: ...

    def on_message(self, peer: ProcessId, payload: bytes) -> None: ...

    def on_unlink(self, peer: ProcessId, reason: str) -> None:
        raise AssertionError(reason)

    def on_control(self, message: Any) -> None:
        self.finish()

    def finish(self) -> None:
        self.done = True
        if self._loop is not None:
            self._loop.stop()

    def play(self, way: str) -> None:
        if way == "poll":
            while not self.done:
                self.board.poll(None)
            return
        self._loop = uvloop.new_event_loop() if way == "uvloop" else asyncio.new_event_loop()
        self.board.attach(self._loop)
        self._loop.run_forever()


class Server(Player):
    """Returns every message until it is told to stop."""

    def on_message(self, peer: ProcessId, payload: bytes) -> None:
        assert self.board.links[peer].send(payload)


class Client(Player):
    """Sends one message at a time, so that both sides sleep in between."""

    def __init__(self, control: socket.socket) -> None:
        super().__init__(control)
        self._played = 0

    def on_link(self, peer: ProcessId) -> None:
        self._play_ball(peer)

    def _play_ball(self, peer: ProcessId) -> None:
        assert self.board.links[peer].send(self._ball())

    def _ball(self) -> bytes:
        return self._played.to_bytes(8, "little") * (self._played % 50)

    def on_message(self, peer: ProcessId, payload: bytes) -> None:
        assert payload == self._ball()
        self._played += 1
        if self._played == ROUND_TRIPS:
            self.board.report(PhaseChange(Phase.STOPPED))
        elif self._played < ROUND_TRIPS:
            self._play_ball(peer)


FLOOD = 300


class Flooder(Player):
    """Sends far more than the rings hold at once, and receives as much."""

    def __init__(self, control: socket.socket) -> None:
        super().__init__(control)
        self._heard = 0

    def on_link(self, peer: ProcessId) -> None:
        for number in range(FLOOD):
            assert self.board.links[peer].send(self._sentence(number))

    @staticmethod
    def _sentence(number: int) -> bytes:
        return number.to_bytes(2, "little") * (number * number % 9000)

    def on_message(self, peer: ProcessId, payload: bytes) -> None:
        assert payload == self._sentence(self._heard)
        self._heard += 1
        if self._heard == FLOOD:
            self.board.report(PhaseChange(Phase.STOPPED))


def run_pair(a: type[Player], b: type[Player], ways: tuple[str, str], reports: int) -> None:
    """Run two players until so many of them have reported that they are done."""
    parties = (Party(HERE), Party(THERE))

    def main(player: type[Player], way: str) -> Callable[[socket.socket], None]:
        return lambda control: player(control).play(way)

    pids = [
        party.fork(main(player, way), other)
        for party, other, player, way in zip(parties, parties[::-1], (a, b), ways, strict=True)
    ]
    join(parties[0].control, parties[1].control, HERE, THERE, spec=spec(), generation=1)
    try:
        for party in parties[:reports]:
            assert select.select([party.control], [], [], PATIENCE_S)[0], "hangs"
            assert list(party.control.receive()) == [(PhaseChange(Phase.STOPPED), [])]
        for party in parties:
            party.control.send(Stop())
        assert [exit_code(pid) for pid in pids] == [0, 0]
    finally:
        for party in parties:
            party.close()


@pytest.mark.parametrize("ways", BOTH_WAYS, ids="-".join)
def test_no_wake_up_is_lost(ways: tuple[str, str]) -> None:
    run_pair(Client, Server, ways, reports=1)


@pytest.mark.parametrize("ways", BOTH_WAYS, ids="-".join)
def test_both_sides_talk_at_once(ways: tuple[str, str]) -> None:
    """Both wait for space at the same time; neither may wait for the other to read first."""
    run_pair(Flooder, Flooder, ways, reports=2)
