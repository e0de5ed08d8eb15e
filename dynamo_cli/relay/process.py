"""The loop of a relay: reads links and frames, and passes each on to the other side."""

from __future__ import annotations

import logging
import math
import os
import select
import socket
import time
from secrets import randbits

from dynamo_cli.cluster_config import RelayConfig
from dynamo_cli.host.proctitle import set_title
from dynamo_cli.ipc.control import AGAIN_S, Control
from dynamo_cli.ipc.link import Link, RingFds
from dynamo_cli.messages.cluster import (
    Carry,
    RelayBound,
    RelayConnection,
    RelayCut,
    RelayDown,
    RelayJoined,
    RelayStats,
    RelayUp,
)
from dynamo_cli.messages.flows import ToChild
from dynamo_cli.messages.lifecycle import Phase, PhaseChange, Ping, Pong, SetPhase, Stop
from dynamo_cli.relay.frames import (
    Frame,
    FrameKind,
    pack_acks,
    pack_messages,
    unpack_acks,
    unpack_messages,
)
from dynamo_cli.relay.port import Port
from dynamo_cli.relay.session import HeadSession, NodeSession
from dynamo_cli.relay.wire import Wire
from dynamo_cli.topology import ProcessId

HELLO_S = 0.25
"""Seconds between two HELLO frames of a node."""

REPORT_S = 1.0
"""Seconds between two reports of the head's end."""

logger = logging.getLogger(__name__)


def main(process: ProcessId, config: RelayConfig, control: socket.socket) -> None:
    """Run one end of a relay until its parent says stop."""
    Relay(process, config, control).run()


def _number() -> int:
    return randbits(63) + 1


class Relay:
    """One end of a relay: its links, its connection and its control socket."""

    def __init__(self, process: ProcessId, config: RelayConfig, control: socket.socket) -> None:
        self._process = process
        self._control = Control(control, ToChild)
        self._wire = Wire(config)
        self._session = HeadSession(_number) if config.listens else NodeSession(_number)
        self._ports: dict[int, Port] = {}
        self._port_of: dict[int, Port] = {}
        self._acks: dict[int, int] = {}
        self._stopping = False
        self._hello_due_s = self._report_due_s = 0.0
        self._reported = RelayStats()
        self._poller = select.epoll()
        for descriptor in (self._control.fileno(), *self._wire.descriptors):
            self._poller.register(descriptor, select.EPOLLIN)
        if config.listens:
            self._control.send(RelayBound(self._wire.port))
        self._control.send(PhaseChange(Phase.READY))

    def run(self) -> None:
        """Relay until told to stop."""
        while not self._stopping:
            self.advance()
        self._wire.close()

    def advance(self, longest_s: float = 1.0) -> None:
        """Do one round: wait for messages or frames, and pass on what has come.

        Args:
            longest_s: longest wait, seconds.
        """
        timeout_s = 0.0 if self._wire.pending() else min(longest_s, self._say_hello())
        if not self._control.flush():
            timeout_s = min(timeout_s, AGAIN_S)
        told = False
        for descriptor, _ in self._poller.poll(timeout_s):
            if (port := self._port_of.get(descriptor)) is not None and port.link is not None:
                self._on_link(port, port.link, descriptor)
            elif descriptor == self._wire.gate:
                self._wire.admit()
            elif descriptor == self._control.fileno():
                told = True
        self._on_control(told=told)
        if self._wire.watch():
            self._control.send_state(RelayConnection(self._wire.connected))
        for peer, data in self._wire.receive():
            self._on_frame(peer, Frame.unpack(data))
        self._acknowledge()
        self._report()

    def _say_hello(self) -> float:
        """Send HELLO if it is due; returns the seconds until the next one is due."""
        if not isinstance(self._session, NodeSession):
            return math.inf
        now = time.monotonic()
        if now >= self._hello_due_s:
            self._wire.send(self._session.hello().pack())
            self._hello_due_s = now + HELLO_S
        return self._hello_due_s - now

    def _report(self) -> None:
        """Send the counters of the head's end to the supervisor, if they have changed."""
        if isinstance(self._session, NodeSession) or time.monotonic() < self._report_due_s:
            return
        wire = self._wire
        stats = RelayStats(
            wire.sent_frames,
            wire.sent_bytes,
            wire.received_frames,
            wire.received_bytes,
            wire.refused,
            self._session.stale,
        )
        if stats != self._reported:
            self._control.send_state(stats)
        self._reported, self._report_due_s = stats, time.monotonic() + REPORT_S

    # -- links -----------------------------------------------------------------------------

    def _on_link(self, port: Port, link: Link, descriptor: int) -> None:
        if descriptor == link.space_fd:
            link.on_space()
            self._note_delivered(link.generation, port)
        else:
            link.on_data()
            self._pump(link.generation, port)

    def _pump(self, generation: int, port: Port) -> None:
        """Send what the local process has written, as far as the window allows."""
        while self._session.joined and (messages := port.take()):
            self._send(FrameKind.DATA, generation, pack_messages(messages))

    def _send(self, kind: FrameKind, generation: int = 0, body: bytes = b"") -> None:
        if self._session.joined:
            self._wire.send(self._session.frame(kind, generation, body).pack())

    def _note_delivered(self, generation: int, port: Port) -> None:
        if size := port.to_acknowledge():
            self._acks[generation] = self._acks.get(generation, 0) + size

    def _acknowledge(self) -> None:
        if self._acks:
            self._send(FrameKind.ACK, 0, pack_acks(self._acks))
            self._acks.clear()

    def _up(self, generation: int, descriptors: list[int]) -> None:
        rings = RingFds(*descriptors[:3]), RingFds(*descriptors[3:])
        link = Link(self._process, generation, *rings)
        port = self._ports.setdefault(generation, Port())
        for descriptor in (link.data_fd, link.space_fd):
            self._port_of[descriptor] = port
            self._poller.register(descriptor, select.EPOLLIN)
        port.attach(link)
        self._note_delivered(generation, port)
        self._send(FrameKind.OPEN, generation)
        self._pump(generation, port)

    def _down(self, generation: int) -> None:
        port = self._ports.pop(generation, None)
        if port is None:
            return
        if words := port.last_words():
            self._send(FrameKind.DATA, generation, pack_messages(words))
        self._close(port)

    def _close(self, port: Port) -> None:
        if (link := port.link) is None:
            return
        for descriptor in (link.data_fd, link.space_fd):
            del self._port_of[descriptor]
            self._poller.unregister(descriptor)
        link.close()

    # -- frames ----------------------------------------------------------------------------

    def _on_frame(self, peer: bytes, frame: Frame) -> None:
        if frame.kind is FrameKind.HELLO:
            self._wire.answer_to(peer)
        step = self._session.take(frame)
        if step.cut or step.joined:
            self._forget_links()
        if step.cut:
            logger.warning("%s: %s; its links are set up again", self._process.name, step.cut)
            self._control.send(RelayCut(step.cut))
        if step.reply is not None:
            self._wire.send(step.reply.pack())
        if step.joined:
            self._control.send(RelayJoined())
        if step.deliver:
            self._act(frame)

    def _act(self, frame: Frame) -> None:
        generation = frame.generation
        match frame.kind:
            case FrameKind.OPEN if isinstance(self._session, NodeSession):
                # The head makes its end of a link first, so its data may come before the outpost
                # has made the local end here. The port keeps that data.
                self._ports.setdefault(generation, Port())
            case FrameKind.DATA:
                # Without a port, the local process has ended, and its peer will be told of that.
                if (port := self._ports.get(generation)) is not None:
                    port.deliver(unpack_messages(frame.body))
                    self._note_delivered(generation, port)
            case FrameKind.ACK:
                for one, size in unpack_acks(frame.body).items():
                    if (port := self._ports.get(one)) is not None:
                        port.acknowledged(size)
                        self._pump(one, port)
            case FrameKind.CARRY:
                self._control.send(Carry(frame.body))

    def _forget_links(self) -> None:
        for port in self._ports.values():
            self._close(port)
        self._ports.clear()
        self._acks.clear()

    # -- control ---------------------------------------------------------------------------

    def _on_control(self, *, told: bool) -> None:
        if not told:
            return
        for message, descriptors in self._control.receive():
            match message:
                case RelayUp(generation):
                    self._up(generation, descriptors)
                case RelayDown(generation):
                    self._down(generation)
                case Carry(payload):
                    self._send(FrameKind.CARRY, 0, payload)
                case Ping():
                    self._control.send(Pong())
                case SetPhase(phase):
                    set_title(self._process, phase)
                case Stop():
                    self._stopping = True
        if self._control.closed:
            os._exit(1)  # the parent is gone
