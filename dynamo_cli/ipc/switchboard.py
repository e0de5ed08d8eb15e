"""All links of one process and its control socket, which deliver to one handler.

A process with an asyncio loop calls `attach` once, and may `post`; a process with its own loop
calls `poll` in each iteration.
"""

from __future__ import annotations

import asyncio
import logging
import os
import select
import socket
from collections.abc import Sequence
from typing import Any, Protocol

from dynamo_cli.errors import Corrupt
from dynamo_cli.host import vital
from dynamo_cli.ipc.codec import encode
from dynamo_cli.ipc.control import Control, Controls
from dynamo_cli.ipc.link import Link, RingFds, clear, passed_ring, too_large
from dynamo_cli.messages.base import Message
from dynamo_cli.messages.flows import ToChild
from dynamo_cli.messages.lifecycle import LinkDown, LinkUp, Ping, Pong
from dynamo_cli.topology import MAX_MESSAGE_BYTES, LinkSpec, ProcessId

ROUNDS = 4
"""Most rounds of draining one link before other callbacks of the loop run."""

ROUND_BYTES = 1 << 20
"""About how many bytes are taken from a link in one go."""

MOST_SWEPT = 32
"""With up to so many links, a process with its own loop looks at each of them in each round, and
its peers need not wake it while it is busy. With more, it looks at those that announce data."""

logger = logging.getLogger(__name__)


class Handler(Protocol):
    """Receives what arrives on the links and the control socket of a process."""

    def on_message(self, peer: ProcessId, payload: bytes) -> None:
        """Handle an encoded message of a peer."""

    def on_link(self, peer: ProcessId) -> None:
        """There is a new link to a peer, which was started for the first time or again."""

    def on_unlink(self, peer: ProcessId, reason: str) -> None:
        """A link is gone. What the peer had written to it was delivered, unless it was corrupt."""

    def on_control(self, message: Any) -> None:
        """Handle a message of the supervisor; the switchboard itself handles those about links."""


class Switchboard:
    """The links of a process; the supervisor opens and closes them.

    Args:
        control: this process's end of its control socket.
        handler: receives all messages and is told of links.

    Attributes:
        links: the open links by peer.
    """

    def __init__(self, control: socket.socket, handler: Handler) -> None:
        self.links: dict[ProcessId, Link] = {}
        self._control = Control(control, ToChild)
        self._handler = handler
        self._loop: asyncio.AbstractEventLoop | None = None
        self._refused_before = 0
        self._poller = select.epoll()
        self._poller.register(self._control.fileno(), select.EPOLLIN)
        self._of_descriptor: dict[int, Link] = {}
        # Of many links, those that are not armed: data may be there that nothing announces.
        self._unarmed: dict[Link, None] = {}
        self._sweeps = True
        self._to_wake: set[ProcessId] = set()

    # -- sending ---------------------------------------------------------------------------

    def send(self, peer: ProcessId, message: Message) -> bool:
        """Send to a peer; False if there is no link to it, or the link refuses the message."""
        link = self.links.get(peer)
        if link is None:
            return False
        return link.send(encode(message))

    def offer(self, peer: ProcessId, message: Message) -> bool:
        """Send what is as large as clients make it; False as with `send`.

        Raises:
            TooLarge: the message is too large, so that sending it again would not help.
        """
        payload = encode(message)
        if len(payload) > MAX_MESSAGE_BYTES:
            raise too_large(len(payload))
        link = self.links.get(peer)
        return link is not None and link.send(payload)

    def owe(self, peer: ProcessId, message: Message) -> bool:
        """Send what a peer waits for or must know; False if there is no link to it.

        Even a full link accepts such a message. There is at most one small message for each thing
        that the peer asked for or was given, so what waits stays bounded.
        """
        link = self.links.get(peer)
        return link is not None and link.send(encode(message), owed=True)

    def post(self, peer: ProcessId, message: Message) -> bool:
        """Send what need not be read at once; False as with `send`.

        A peer that sleeps is woken once for all that one iteration of the loop posts, which saves
        both sides a system call per message. It reads it before whatever is sent to it later.
        """
        link = self.links.get(peer)
        if link is None:
            return False
        assert self._loop is not None
        if peer not in self._to_wake:
            self._to_wake.add(peer)
            self._loop.call_soon(self._wake, peer)
        return link.send(encode(message), wake=False)

    @vital.callback
    def _wake(self, peer: ProcessId) -> None:
        self._to_wake.discard(peer)
        if (link := self.links.get(peer)) is not None:
            link.wake()

    def report(self, message: Message, descriptors: Sequence[int] = ()) -> None:
        """Send to the supervisor."""
        self._control.send(message, descriptors)

    def refused_sends(self) -> int:
        """Number of messages that full links refused since the process started."""
        return self._refused_before + sum(link.refused_sends for link in self.links.values())

    def depth_bytes(self) -> dict[str, int]:
        """Bytes that were sent but not read yet, by the name of the peer."""
        return {peer.name: link.depth_bytes() for peer, link in self.links.items()}

    # -- asyncio ---------------------------------------------------------------------------

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Serve all links from this loop, also those that are opened later."""
        self._loop = loop
        loop.add_reader(self._control.fileno(), self._control_readable)
        self._control.attach(lambda delay_s, act: loop.call_later(delay_s, vital.callback(act)))
        for link in self.links.values():
            self._watch(link)
        self._on_control()

    def _watch(self, link: Link) -> None:
        assert self._loop is not None
        self._loop.add_reader(link.data_fd, self._on_data, link)
        self._loop.add_reader(link.space_fd, self._on_space, link)
        self._loop.call_soon(self._pump, link)

    @vital.callback
    def _control_readable(self) -> None:
        self._on_control()

    @vital.callback
    def _on_space(self, link: Link) -> None:
        link.on_space()

    @vital.callback
    def _on_data(self, link: Link) -> None:
        link.on_data()
        self._pump(link)

    @vital.callback
    def _pump(self, link: Link) -> None:
        """Deliver until the link is empty and armed, or for `ROUNDS` rounds."""
        for _ in range(ROUNDS):
            if self.links.get(link.peer) is not link:
                return
            if not self._deliver(link) and link.arm():
                return
        assert self._loop is not None
        self._loop.call_soon(self._pump, link)

    # -- processes with their own loop ------------------------------------------------------------

    def poll(self, timeout_s: float | None) -> bool:
        """Deliver what has arrived, about `ROUND_BYTES` of each link; if nothing has, wait for it.

        Args:
            timeout_s: the longest wait; 0 does not wait, None waits without limit.

        Returns:
            whether anything was delivered, including messages of the supervisor.
        """
        if len(self.links) > MOST_SWEPT:
            return self._poll_announced(timeout_s)
        self._sweeps = True
        delivered = self._on_control() | self._sweep()
        if delivered or timeout_s == 0:
            return delivered
        # A list, because all() of a generator would not arm the links after the first busy one.
        quiet = [link.arm() for link in self.links.values()]
        if all(quiet):
            for descriptor, _ in self._poller.poll(timeout_s):
                if descriptor != self._control.fileno():
                    clear(descriptor)
        for link in self.links.values():
            link.disarm()
        return self._on_control() | self._sweep()

    def _poll_announced(self, timeout_s: float | None) -> bool:
        """The same, without looking at links that are quiet."""
        if self._sweeps:
            self._sweeps, self._unarmed = False, dict.fromkeys(self.links.values())
        delivered = self._on_control() | self._deliver_unarmed()
        waits = not (delivered or self._unarmed)
        for descriptor, _ in self._poller.poll(timeout_s if waits else 0):
            if (link := self._of_descriptor.get(descriptor)) is None:
                if descriptor != self._control.fileno():
                    clear(descriptor)
                continue
            if descriptor == link.space_fd:
                link.on_space()
            else:
                link.on_data()
                self._unarmed[link] = None
        return delivered | self._on_control() | self._deliver_unarmed()

    def _deliver_unarmed(self) -> bool:
        """Deliver from links where data may be, and arm those that are empty then."""
        delivered = False
        for link in list(self._unarmed):
            delivered |= self._deliver(link)
            if self.links.get(link.peer) is not link or link.arm():
                self._unarmed.pop(link, None)
        return delivered

    def _sweep(self) -> bool:
        delivered = False
        for link in list(self.links.values()):
            if link.pending_bytes:
                link.flush()
            delivered |= self._deliver(link)
        return delivered

    def wake_by(self, eventfd: int) -> None:
        """Let `poll` end when this eventfd is set, which it clears."""
        self._poller.register(eventfd, select.EPOLLIN)

    # -- delivering ------------------------------------------------------------------------

    def _deliver(self, link: Link) -> bool:
        """Deliver what has arrived on a link; False if that was nothing.

        Raises:
            Corrupt: the bytes are no valid messages. This ends the process: if it only dropped the
                link, the peer would wait without end for answers.
        """
        try:
            payloads = link.receive(ROUND_BYTES)
            for payload in payloads:
                self._handler.on_message(link.peer, payload)
        except Corrupt as error:
            raise Corrupt(f"link with {link.peer.name}: {error}") from error
        return bool(payloads)

    # -- control ---------------------------------------------------------------------------

    def _on_control(self) -> bool:
        """Handle what the supervisor has sent; False if that was nothing."""
        self._control.flush()
        received = False
        for message, descriptors in self._control.receive():
            received = True
            match message:
                case LinkUp(peer, generation):
                    self._link(ProcessId.parse(peer), generation, descriptors)
                case LinkDown(peer, generation, reason):
                    self._unlink(ProcessId.parse(peer), generation, reason)
                case Ping():
                    self._control.send(Pong())
                case _:
                    self._handler.on_control(message)
        if self._control.closed:
            # The supervisor is gone: end at once, whatever the process is doing.
            os._exit(1)
        return received

    def _link(self, peer: ProcessId, generation: int, descriptors: list[int]) -> None:
        if (old := self.links.get(peer)) is not None:
            self._last_words(old, "replaced")
        link = Link(peer, generation, RingFds(*descriptors[:3]), RingFds(*descriptors[3:]))
        self.links[peer] = link
        self._unarmed[link] = None
        for descriptor in (link.data_fd, link.space_fd):
            self._of_descriptor[descriptor] = link
            self._poller.register(descriptor, select.EPOLLIN)
        if self._loop is not None:
            self._watch(link)
        self._handler.on_link(peer)

    def _unlink(self, peer: ProcessId, generation: int, reason: str) -> None:
        link = self.links.get(peer)
        if link is not None and link.generation == generation:
            self._last_words(link, reason)

    def _last_words(self, link: Link, reason: str) -> None:
        """Deliver everything that the peer had written, then drop the link."""
        try:
            while self.links.get(link.peer) is link and not link.arm():
                self._deliver(link)
        except Corrupt as error:  # the peer is gone, so nobody waits for answers
            logger.error("%s", error.message)
        self._drop(link, reason)

    def _drop(self, link: Link, reason: str) -> None:
        if self.links.get(link.peer) is not link:
            return
        del self.links[link.peer]
        self._unarmed.pop(link, None)
        self._refused_before += link.refused_sends
        for descriptor in (link.data_fd, link.space_fd):
            del self._of_descriptor[descriptor]
            self._poller.unregister(descriptor)
            if self._loop is not None:
                self._loop.remove_reader(descriptor)
        link.close()
        self._handler.on_unlink(link.peer, reason)

    def close(self) -> None:
        """Close all links and the control socket without telling the handler."""
        for link in self.links.values():
            if self._loop is not None:
                self._loop.remove_reader(link.data_fd)
                self._loop.remove_reader(link.space_fd)
            link.close()
        self.links.clear()
        if self._loop is not None:
            self._loop.remove_reader(self._control.fileno())
        self._poller.close()
        self._control.close()


def join(
    a: Controls, b: Controls, a_id: ProcessId, b_id: ProcessId, *, spec: LinkSpec, generation: int
) -> None:
    """Make the two rings of a link and pass them to both processes; called by the supervisor.

    Raises:
        OSError: the system lacks memory or descriptors. One of them may have the link already.
    """
    with (
        passed_ring(spec.a_to_b_bytes, f"{a_id.name} to {b_id.name}") as to_b,
        passed_ring(spec.b_to_a_bytes, f"{b_id.name} to {a_id.name}") as to_a,
    ):
        a.send(LinkUp(b_id.name, generation), (*to_b, *to_a))
        b.send(LinkUp(a_id.name, generation), (*to_a, *to_b))
