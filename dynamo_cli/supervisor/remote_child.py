"""A child process on another node, which the outpost there starts and watches."""

from __future__ import annotations

import pickle
import signal
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from dynamo_cli.errors import ChildFailed
from dynamo_cli.ipc.codec import Decoder, encode
from dynamo_cli.messages.base import Message
from dynamo_cli.messages.cluster import (
    ChildGone,
    ChildTold,
    ChildWrote,
    JoinBeside,
    JoinChild,
    PartChild,
    RelayDown,
    RelayUp,
    SignalChild,
    StartChild,
    TellChild,
)
from dynamo_cli.messages.flows import ToSupervisor
from dynamo_cli.messages.lifecycle import LinkDown, LinkUp
from dynamo_cli.supervisor.child import Child, Parent, Start
from dynamo_cli.supervisor.logs import OutputLine

_reports: Callable[[bytes], Any] = Decoder(ToSupervisor)


class Way(Protocol):
    """The way to a node.

    Attributes:
        up: whether its outpost answers.
    """

    up: bool

    def relay(self, message: Message, descriptors: Sequence[int] = ()) -> None:
        """Send to the head's end of the relay."""

    def tell(self, message: Message) -> None:
        """Send to the outpost."""


class RemoteControl:
    """The way to the control socket of a child on another node.

    What the supervisor says of links goes to the relay too: it stands for the child here.

    Args:
        process: name of the child.
    """

    def __init__(self, process: str, way: Way) -> None:
        self._process = process
        self._way = way
        self._generations: set[int] = set()

    def send(self, message: Message, descriptors: Sequence[int] = ()) -> None:
        """Send a message to the child."""
        match message:
            case LinkUp(peer, generation):
                self._generations.add(generation)
                self._way.relay(RelayUp(generation), descriptors)
                self._way.tell(JoinChild(self._process, peer, generation))
            case LinkDown(peer, generation, reason):
                self._drop(generation)
                self._way.tell(PartChild(self._process, peer, generation, reason))
            case _:
                self._way.tell(TellChild(self._process, encode(message)))

    def send_state(self, message: Message) -> None:
        """Send it: nothing waits here."""
        self.send(message)

    def flush(self) -> bool:
        """Nothing waits here."""
        return True

    def _drop(self, generation: int) -> None:
        self._generations.discard(generation)
        self._way.relay(RelayDown(generation))

    def drop_links(self) -> None:
        """Drop all its links at the relay: the child, or its node, is gone."""
        for generation in list(self._generations):
            self._drop(generation)


class RemoteChild(Child):
    """A child on another node.

    Args:
        node: name of the node.

    Attributes:
        probes: how many probes of it have not been answered.
    """

    control: RemoteControl

    def __init__(self, start: Start, parent: Parent, node: str, way: Way) -> None:
        super().__init__(start, parent)
        self.node = node
        self.control = RemoteControl(self.process.name, way)
        self._way = way
        self._words: list[str] = []
        self.probes = 0

    @property
    def reachable(self) -> bool:
        """Whether its node is up."""
        return self._way.up

    def join_beside(self, peer: Child, generation: int) -> bool:
        """Have the outpost make a link with a child of the same node."""
        if peer.node != self.node:
            return False
        self._way.tell(JoinBeside(self.process.name, peer.process.name, generation))
        return True

    @property
    def last_words(self) -> list[str]:
        """Log lines that may explain its end, oldest first."""
        return self._words

    @property
    def is_ready(self) -> bool:
        """The outpost asks it for signs of life, so the head does not."""
        return False

    def begin(self, *, forked: bool) -> None:
        """Have the outpost start it."""
        self._way.tell(StartChild(self.process.name, pickle.dumps(self.start), forked))

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Have the outpost send it a signal."""
        if self.alive:
            self._way.tell(SignalChild(self.process.name, number))

    def end(self) -> None:
        """Kill it, or count it as ended if its node is lost. It is killed when the node is back."""
        if self.reachable:
            self.kill()
        else:
            self.lost(f"{self.node} is lost")

    def discard(self) -> None:
        """Forget a child that could not be started. The outpost may have begun to."""
        self.kill()
        self.gone.set()
        self.control.drop_links()

    def lost(self, why: str) -> None:
        """Handle that its node is gone, and it with it."""
        self.failure = (ChildFailed.__name__, why)
        self.ended(None)

    def told(self, message: ChildTold | ChildWrote | ChildGone) -> None:
        """Act on what the outpost says of this child."""
        match message:
            case ChildTold(_, payload):
                self._parent.on_report(self, _reports(payload), ())
            case ChildWrote(_, level, text, access):
                self._parent.on_log(self, OutputLine(level, text, access))
            case ChildGone(_, exit_code, failure, stalled, words):
                self.failure = failure or self.failure
                self.stalled, self._words = stalled, words
                self.ended(exit_code)

    def ended(self, exit_code: int | None) -> None:
        """Handle its exit, or that of its node."""
        if self.alive:
            self.gone.set()
            self.control.drop_links()
            self._parent.on_exit(self, exit_code)
