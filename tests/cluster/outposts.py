"""An outpost without processes: what it is told, and what it tells."""

from __future__ import annotations

import signal
from types import SimpleNamespace
from typing import Any

from dynamo_cli.cluster_config import ClusterTimeouts, RelayConfig
from dynamo_cli.config import EngineConfig, HostCacheConfig
from dynamo_cli.ipc.codec import Decoder, encode
from dynamo_cli.messages.base import Message
from dynamo_cli.messages.cluster import (
    Carry,
    FromOutpost,
    JoinChild,
)
from dynamo_cli.outpost.process import RELAY, Outpost
from dynamo_cli.supervisor.child import Child, Start
from dynamo_cli.supervisor.post import Post, Versions
from dynamo_cli.topology import ROUTER, ProcessId, Role

WORKER = ProcessId(Role.WORKER, 0)
ENGINE = EngineConfig("tiny", "tiny", ("tiny",))
CACHE = HostCacheConfig(1 << 20)
TIMEOUT_S = 20.0
HOUR_NS = 3600 * 10**9
decoded: Any = Decoder(FromOutpost)


def post(**timeouts: float) -> Post:
    relay = RelayConfig("127.0.0.1", 1, "", "", "", listens=False)
    versions = Versions("1", "1", "3.11")
    return Post(
        "node-b",
        "127.0.0.1",
        relay,
        ENGINE,
        False,
        versions,
        TIMEOUT_S,
        ClusterTimeouts(**timeouts),
    )


class FakeChild(Child):
    """A child that records the messages sent to it."""

    def __init__(self, process: ProcessId, outpost: Outpost) -> None:
        super().__init__(Start(process, ENGINE, "WARNING"), outpost)  # type: ignore[arg-type]
        self.pid = 1
        self.got: list[Any] = []
        self.control: Any = SimpleNamespace(send=lambda message, _=(): self.got.append(message))

    @property
    def last_words(self) -> list[str]:
        return ["words"]

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        self.gone.set()

    def discard(self) -> None:
        pass


class Node:
    """An outpost with a relay and a worker; make it in a running loop."""

    def __init__(self, **timeouts: float) -> None:
        self.outpost = Outpost(post(**timeouts))
        self.relay, self.worker = (FakeChild(one, self.outpost) for one in (RELAY, WORKER))
        self.outpost._children.update({RELAY: self.relay, WORKER: self.worker})  # type: ignore[dict-item]

    def hear(self, message: Message) -> None:
        """The head says this."""
        self.outpost.on_report(self.relay, Carry(encode(message)), ())

    def told(self, kind: type) -> list[Any]:
        """What the head was told, of one kind."""
        carried = [decoded(one.payload) for one in self.relay.got if isinstance(one, Carry)]
        return [one for one in carried if isinstance(one, kind)]

    def link(self, generation: int) -> None:
        self.hear(JoinChild(WORKER.name, ROUTER.name, generation))
