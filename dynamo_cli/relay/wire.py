"""The connection between two relays: ZeroMQ over TCP, encrypted and authenticated with CURVE."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import suppress

import zmq
from zmq.utils import z85

from dynamo_cli.cluster_config import RelayConfig
from dynamo_cli.errors import PortInUse

ZAP = "inproc://zeromq.zap.01"
HANDSHAKE_MS, BEAT_MS, DEAD_MS = 5_000, 1_000, 10_000
"""ZeroMQ connects again, and loses frames, when its own heartbeats are not answered for so long,
also if the machine stood still meanwhile. So it waits longer than the head, which knows that."""

RETRY_MS, MOST_RETRY_MS = 50, 250

EVENTS, POLLIN = int(zmq.EVENTS), int(zmq.POLLIN)
"""As plain numbers: arithmetic with the flags of pyzmq takes microseconds."""

logger = logging.getLogger(__name__)


def key_pair() -> tuple[str, str]:
    """A new public and secret key."""
    public, secret = zmq.curve_keypair()
    return public.decode(), secret.decode()


class Wire:
    """One end. No method blocks; what cannot be sent yet waits in ZeroMQ.

    Args:
        config: with the keys of both ends.

    Attributes:
        port: the port at which the head listens.
        gate: descriptor that announces clients which want to connect; then `admit` is to be called.
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
        self.refused = 0
        self.sent_frames = self.sent_bytes = self.received_frames = self.received_bytes = 0
        self._socket = self._context.socket(zmq.ROUTER if config.listens else zmq.DEALER)
        self._set_up(config)
        self.port = config.port
        self._listens = config.listens
        endpoint = f"tcp://{config.host}:{config.port or '*'}"
        if not config.listens:
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
        one.setsockopt(zmq.HEARTBEAT_TIMEOUT, DEAD_MS)
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
        return (frames, self.gate) if self._listens else (frames,)

    def answer_to(self, peer: bytes) -> None:
        """Send to this connection from now on (the head)."""
        self._peer = peer

    def send(self, data: bytes) -> None:
        """Send to the other end. Without a connection it is lost, which the numbers show."""
        with suppress(zmq.Again):
            if not self._listens:
                self._socket.send(data, zmq.DONTWAIT)
            elif self._peer:
                self._socket.send_multipart((self._peer, data), zmq.DONTWAIT)
            self.sent_frames += 1
            self.sent_bytes += len(data)

    def receive(self) -> Iterator[tuple[bytes, bytes]]:
        """Everything that has come, each with the connection that it came from."""
        while _readable(self._socket):
            peer, data = (b"", *self._socket.recv_multipart(zmq.DONTWAIT))[-2:]
            self.received_frames += 1
            self.received_bytes += len(data)
            yield peer, data

    def pending(self) -> bool:
        """Whether frames have come that the descriptors do not announce any more."""
        return _readable(self._socket)

    def admit(self) -> None:
        """Answer ZeroMQ's question whether a client may connect: only the one with our key."""
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
        """Count it, and say so the 1st, 2nd, 4th, 8th ... time, since it may go on for ever."""
        self.refused += 1
        if self.refused.bit_count() == 1:
            times = f"; {self.refused} times so far" if self.refused > 1 else ""
            logger.warning("a connection from %s is refused: its key is wrong%s", address, times)

    def close(self) -> None:
        """Drop what waits, and close the connection."""
        self._context.destroy(linger=0)


def _readable(one: zmq.Socket[bytes]) -> bool:
    return bool(int(one.getsockopt(EVENTS)) & POLLIN)
