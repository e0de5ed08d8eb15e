"""Processes that the test plays, around one whose loop runs in the test."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

from dynamo_cli.config import ENGINE_ROLES
from dynamo_cli.ipc.codec import Decoder
from dynamo_cli.ipc.switchboard import Switchboard, join
from dynamo_cli.messages.base import Message
from dynamo_cli.messages.lifecycle import LinkDown, PeerEnded
from dynamo_cli.topology import ProcessId, Role, links_of
from tests.ipc.support import Party

M = TypeVar("M", bound=Message)


class Looping(Protocol):
    """A process that a test runs round by round."""

    _switchboard: Switchboard

    def advance(self, timeout_s: float | None) -> None: ...


P = TypeVar("P", bound=Looping)


class Peer:
    """A process with a link to the one in the middle.

    Args:
        middle: the supervisor's side of that one.
        hears: union of the messages that it gets from there.
    """

    def __init__(self, process: ProcessId, middle: Party, generation: int, hears: Any) -> None:
        self.process = process
        self.generation = generation
        self._middle = middle
        self._decode = Decoder(hears)
        self._party = Party(process)
        self._board, self._heard = self._party.board()
        a, b, spec = links_of(process, [middle.process])[0]
        ends = {process: self._party.control, middle.process: middle.control}
        join(ends[a], ends[b], a, b, spec=spec, generation=generation)
        self._board.poll(0)

    def send(self, message: Message) -> None:
        assert self._board.send(self._middle.process, message)

    def take(self) -> list[Message]:
        """The messages that have come since the last call."""
        self._board.poll(0)
        payloads = self._heard.payloads()
        self._heard.events.clear()
        return [self._decode(payload) for payload in payloads]

    def die(self) -> None:
        """Tell the one in the middle, as the supervisor would, that this process is gone."""
        self.part("SIGKILL")
        if self._middle.process.role is Role.HOST_CACHE and self.process.role in ENGINE_ROLES:
            self._middle.control.send(PeerEnded(self.process.name))

    def part(self, reason: str = "node_lost") -> None:
        """Tell the one in the middle that the link to this process is gone."""
        self._middle.control.send(LinkDown(self.process.name, self.generation, reason))

    def close(self) -> None:
        self._board.close()
        self._party.close()


class Middle(Generic[P]):
    """A process whose loop runs in the test, and those around it.

    Args:
        make: makes the process from its end of the control socket.
        hears: union of the messages that it sends.
    """

    def __init__(self, who: ProcessId, make: Callable[[socket.socket], P], hears: Any) -> None:
        self._supervised = Party(who)
        self.control = self._supervised.control
        self.process = make(self._supervised.theirs)
        self._hears = hears
        self._peers: list[Peer] = []

    def peer(self, process: ProcessId) -> Peer:
        """Link a process with it."""
        peer = Peer(process, self._supervised, len(self._peers) + 1, self._hears)
        self._peers.append(peer)
        self.turn()
        return peer

    def turn(self) -> None:
        """Let it handle all that has come."""
        self.process.advance(0)

    def close(self) -> None:
        for peer in self._peers:
            peer.close()
        self.process._switchboard.close()
        self._supervised.close()


def of(kind: type[M], messages: list[Message]) -> list[M]:
    return [message for message in messages if isinstance(message, kind)]
