"""The connection between two relays: ZeroMQ over TCP, encrypted and authenticated with CURVE."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import suppress

import zmq
from zmq.utils import z85
from zmq.utils.monitor import parse_monitor_message

from dynamo_cli.cluster_config import RelayConfig
from dynamo_cli.errors import PortInUse

ZAP = "inproc://zeromq.zap.01"
HANDSHAKE_MS, BEAT_MS, DEAD_MS, HEAD_DEAD_MS = 5_000, 1_000, 10_000, 3_000
"""Milliseconds: the limit for a handshake, the time between two heartbeats of ZeroMQ, and the time
without an answer after which ZeroMQ at the head, and at a node, gives the connection up, makes a
new one, and loses the frames on the way. ZeroMQ counts time in which this machine itself was
paused, the supervisor's heartbeats do not. So the limit of the head is longer than theirs. The one
of a node is shorter: engines must end soon after the machine of the head has (see
`cluster_config.ClusterTimeouts`)."""

RETRY_MS, MOST_RETRY_MS = 50, 250

CONNECTED, DISCONNECTED = int(zmq.EVENT_HANDSHAKE_SUCCEEDED), int(zmq.EVENT_DISCONNECTED)

EVENTS, POLLIN = int(zmq.EVENTS), int(zmq.POLLIN)
"""As plain numbers: arithmetic with the flags of pyzmq takes microseconds."""

logger = logging.getLogger(__name__)


def key_pair() -> tuple[str, str]:
    """A new public and secret key."""
    public, secret = zmq.curve_keypair()
    return public.decode(), secret.decode()


class Wire:
    """One end of the connection. No method blocks; frames that cannot be sent yet wait in ZeroMQ.

    Args:
        config: address and keys of both ends.

    Attributes:
        port: the port at which the head listens.
        gate: descriptor that is readable when clients want to connect; then call `admit`.
        connected: at a node, whether there is a connection to the head; see `watch`.
        refused: connections that were refused because of their key.
        sent_frames, sent_bytes, received_frames, received_bytes: what has passed since the start.

    Raises:
        PortInUse: the head cannot listen there.
    """

    def __init__(self, config: RelayConfig) -> None:
        self._context = zmq.Context()
        self._allowed = config.other.encode()
        self._zap = self._context.socket(zmq.REP)
        self.gate = int(self._zap.getsockopt(zmq.FD))
        self._peer = b""
        self._states: zmq.Socket[bytes] | None = None
        self.connected = False
        self.refused = 0
        self.sent_frames = self.sent_bytes = self.received_frames = self.received_bytes = 0
        self._socket = self._context.socket(zmq.ROUTER if config.listens else zmq.DEALER)
        self._set_up(config)
        self.port = config.port
        self._listens = config.listens
        endpoint = f"tcp://{config.host}:{config.port or '*'}"
        if not config.listens:
            self._states = self._socket.get_monitor_socket(CONNECTED | DISCONNECTED)
            self._socket.connect(endpoint)
            return
        self._zap.bind(ZAP)
        try:
            self._socket.bind(endpoint)
        except zmq.ZMQError as error:
            raise PortInUse(f"the relay cannot listen at {endpoint}: {error.strerror}.") from error
        self.port = int(self._socket.getsockopt_string(zmq.LAST_ENDPOINT).rpartition(":")[2])

    def _set_up(self, config: RelayConfig) -> None:
        one = self._socket
        one.setsockopt(zmq.LINGER, 0)
        one.setsockopt(zmq.SNDHWM, 0)  # the windows of the links bound what waits
        one.setsockopt(zmq.RCVHWM, 0)
        one.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
        one.setsockopt(zmq.HEARTBEAT_IVL, BEAT_MS)
        one.setsockopt(zmq.HEARTBEAT_TIMEOUT, DEAD_MS if config.listens else HEAD_DEAD_MS)
        one.setsockopt(zmq.RECONNECT_IVL, RETRY_MS)
        one.setsockopt(zmq.RECONNECT_IVL_MAX, MOST_RETRY_MS)
        one.setsockopt(zmq.IPV6, int(":" in config.host))
        one.curve_publickey, one.curve_secretkey = config.public.encode(), config.secret.encode()
        if config.listens:
            one.curve_server = True
            one.setsockopt(zmq.ZAP_DOMAIN, b"relay")
        else:
            one.curve_serverkey = self._allowed

    @property
    def descriptors(self) -> tuple[int, ...]:
        """Descriptors to poll; they only announce that something may have come."""
        frames = int(self._socket.getsockopt(zmq.FD))
        other = self.gate if self._states is None else int(self._states.getsockopt(zmq.FD))
        return (frames, other)

    def watch(self) -> bool:
        """Update `connected`; returns whether it has changed, or there is another connection."""
        news = False
        while self._states is not None and _readable(self._states):
            event = parse_monitor_message(self._states.recv_multipart(zmq.DONTWAIT))["event"]
            self.connected, news = event == CONNECTED, True
        return news

    def answer_to(self, peer: bytes) -> None:
        """At the head: send to this connection from now on."""
        self._peer = peer

    def send(self, data: bytes) -> None:
        """Send a frame. Without a connection it is lost; the other end sees a gap in the
        numbers."""
        with suppress(zmq.Again):
            if not self._listens:
                self._socket.send(data, zmq.DONTWAIT)
            elif self._peer:
                self._socket.send_multipart((self._peer, data), zmq.DONTWAIT)
            self.sent_frames += 1
            self.sent_bytes += len(data)

    def receive(self) -> Iterator[tuple[bytes, bytes]]:
        """All frames that have come, each with the connection that it came from."""
        while _readable(self._socket):
            peer, data = (b"", *self._socket.recv_multipart(zmq.DONTWAIT))[-2:]
            self.received_frames += 1
            self.received_bytes += len(data)
            yield peer, data

    def pending(self) -> bool:
        """Whether frames have come that the descriptors do not announce any more."""
        return _readable(self._socket)

    def admit(self) -> None:
        """Let only the client connect whose key is the other end's, as ZeroMQ asks for each."""
        while _readable(self._zap):
            version, request, _domain, address, _identity, mechanism, *keys = (
                self._zap.recv_multipart(zmq.DONTWAIT)
            )
            right = mechanism == b"CURVE" and z85.encode(keys[0]) == self._allowed
            if not right:
                self._on_stranger(address.decode())
            status = (b"200", b"OK") if right else (b"400", b"this key is not known")
            self._zap.send_multipart((version, request, *status, b"", b""))

    def _on_stranger(self, address: str) -> None:
        """Count a refused connection; log the 1st, 2nd, 4th, 8th ..., as this may not end."""
        self.refused += 1
        if self.refused.bit_count() == 1:
            times = f"; {self.refused} times so far" if self.refused > 1 else ""
            logger.warning("a connection from %s is refused: its key is wrong%s", address, times)

    def close(self) -> None:
        """Drop frames that wait, and close the connection."""
        self._context.destroy(linger=0)


def _readable(one: zmq.Socket[bytes]) -> bool:
    return bool(int(one.getsockopt(EVENTS)) & POLLIN)
