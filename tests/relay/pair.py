"""Two relays in one process, whose rounds are run by hand, and the ends of links through them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from dynamo_cli.cluster_config import RelayConfig
from dynamo_cli.ipc.control import Control
from dynamo_cli.ipc.link import Link, create_ring
from dynamo_cli.messages.cluster import RelayDown, RelayUp
from dynamo_cli.relay.process import Relay
from dynamo_cli.relay.wire import key_pair
from dynamo_cli.topology import ProcessId, Role

HERE, THERE = ProcessId(Role.PROCESSOR, 0), ProcessId(Role.WORKER, 0)
RING_BYTES = 64 << 10


class End:
    """A relay and its parent's end of its control socket."""

    def __init__(self, config: RelayConfig) -> None:
        self.config = config
        self.control, theirs = Control.pair()
        self.relay = Relay(ProcessId(Role.RELAY), config, theirs)
        self.said: list[Any] = []

    def listen(self) -> None:
        self.said += [message for message, _ in self.control.receive()]

    def heard(self, kind: type) -> bool:
        self.listen()
        return any(isinstance(message, kind) for message in self.said)

    def close(self) -> None:
        self.relay._forget_links()
        self.relay._wire.close()
        self.relay._poller.close()
        self.relay._control.close()
        self.control.close()


class Pair:
    """The head's relay and a node's, connected over 127.0.0.1."""

    def __init__(self, *, right_key: bool = True) -> None:
        (head, head_secret), (node, node_secret) = key_pair(), key_pair()
        known = node if right_key else key_pair()[0]
        self.head = End(RelayConfig("127.0.0.1", 0, head, head_secret, known, listens=True))
        port = self.head.relay._wire.port
        self.node = End(RelayConfig("127.0.0.1", port, node, node_secret, head, listens=False))
        self.links: list[Link] = []

    def run_until(self, condition: Callable[[], object], timeout_s: float = 20.0) -> bool:
        """Run rounds of both until the condition holds; returns whether it does."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline:
                return False
            for end in (self.head, self.node):
                end.relay.advance(0.0)
            for link in self.links:
                link.on_space()
        return True

    def link(self, generation: int) -> tuple[Link, Link]:
        """A link through both: its end at the head and its end at the node."""
        return self.half(self.head, HERE, generation), self.half(self.node, THERE, generation)

    def half(
        self, end: End, peer: ProcessId, generation: int, ring_bytes: int = RING_BYTES
    ) -> Link:
        """One end of a link."""
        out, back = create_ring(ring_bytes, "out"), create_ring(ring_bytes, "back")
        end.control.send(RelayUp(generation), (*back, *out))
        link = Link(peer, generation, out, back)
        self.links.append(link)
        return link

    def down(self, generation: int) -> None:
        for end in (self.head, self.node):
            end.control.send(RelayDown(generation))

    def close(self) -> None:
        for link in self.links:
            link.close()
        self.head.close()
        self.node.close()
