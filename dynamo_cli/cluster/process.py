"""The process that speaks with Ray: places an outpost on each node, and says when one has ended."""

from __future__ import annotations

import logging
import os
import queue
import re
import select
import socket
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from threading import Thread
from typing import Any

from dynamo_cli.cluster.connect import connect, patience
from dynamo_cli.cluster.joining import offers, place_of
from dynamo_cli.cluster.survey import living
from dynamo_cli.cluster_config import ClusterConfig, Node
from dynamo_cli.errors import ResourceError
from dynamo_cli.host import vital
from dynamo_cli.host.proctitle import set_title
from dynamo_cli.ipc.control import Control
from dynamo_cli.messages.cluster import NodesOffered, OutpostEnded, PlaceOutpost
from dynamo_cli.messages.flows import ToChild
from dynamo_cli.messages.lifecycle import Fatal, Phase, PhaseChange, Ping, Pong, SetPhase, Stop
from dynamo_cli.supervisor.post import Versions
from dynamo_cli.topology import ProcessId

LOOK_S = 2.0
"""Seconds between two queries for the nodes of the cluster."""

NO_PLACE = "no node of the cluster can be used for it"
IDS = re.compile(r"\b[0-9a-f]{16,} ?")
"""Ids of Ray, which are removed from messages: they do not help people."""

logger = logging.getLogger(__name__)

Callback = Callable[[], None]


def main(process: ProcessId, config: ClusterConfig, control: socket.socket) -> None:
    """Speak with Ray until the supervisor says stop."""
    found = Control(control, ToChild)
    found.send(PhaseChange(Phase.STARTING))
    give_up = patience(config.address, lambda why: found.send(Fatal(ResourceError.__name__, why)))
    connect(config.address)
    give_up.cancel()
    Cluster(process, config, found).run()


def _actor() -> Any:
    """The class of the actor. Ray sends its code to the node, so that a node without this package
    can report that it is missing."""
    import ray  # noqa: PLC0415

    class Outpost:
        def start(self, post: bytes, head: tuple[str, str, str]) -> dict[str, str]:
            try:
                from dynamo_cli.cluster.hand import Hand  # noqa: PLC0415
            except ImportError as error:
                return {
                    "error": "UsageError",
                    "message": f"dynamo-llm {head[0]} is not installed there ({error}).",
                }
            self.hand = Hand()
            return self.hand.start(post, head)

        def wait(self) -> str:
            return self.hand.wait()

    return ray.remote(Outpost)


class Cluster:
    """The outposts of a run, as Ray sees them."""

    def __init__(self, process: ProcessId, config: ClusterConfig, control: Control) -> None:
        self._process, self._control = process, control
        self._actor = _actor()
        self._nodes = dict(enumerate(config.nodes))
        self._ids = {number: node.ray_id for number, node in self._nodes.items()}
        self._offered: list[Node] = []
        self._outposts: dict[int, Any] = {}
        self._posts: dict[int, bytes] = {}
        self._callbacks: queue.SimpleQueue[Callback] = queue.SimpleQueue()
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._stopping = False
        self._versions = Versions.here()
        control.send(PhaseChange(Phase.READY))

    def run(self) -> None:
        """Serve until told to stop."""
        import ray  # noqa: PLC0415

        Thread(target=vital.callback(self._look), daemon=True).start()
        poller = select.poll()
        poller.register(self._control.fileno(), select.POLLIN)
        poller.register(self._bell, select.POLLIN)
        while not self._stopping:
            for descriptor, _ in poller.poll():
                if descriptor == self._bell:
                    os.eventfd_read(self._bell)
            while not self._callbacks.empty():
                self._callbacks.get()()
            self._on_control()
        for outpost in self._outposts.values():
            ray.kill(outpost)
        ray.shutdown()

    def _on_control(self) -> None:
        for message, _ in self._control.receive():
            match message:
                case PlaceOutpost(node, machine, post):
                    self._posts[node] = post
                    self._nodes[node] = machine
                    self._place(node)
                case Ping():
                    self._control.send(Pong())
                case SetPhase(phase):
                    set_title(self._process, phase)
                case Stop():
                    self._stopping = True
        if self._control.closed:
            os._exit(1)

    # -- outposts --------------------------------------------------------------------------

    def _place(self, node: int) -> None:
        from ray.util.scheduling_strategies import (  # noqa: PLC0415
            NodeAffinitySchedulingStrategy as On,
        )

        if (before := self._outposts.pop(node, None)) is not None:
            import ray  # noqa: PLC0415

            ray.kill(before)
        try:
            nodes = _living()
        except _refusals() as error:
            self._ended(node, _words(error))
            return
        self._ids[node] = place_of(node, self._nodes[node], self._ids, nodes)
        self._seen(nodes)  # the machine that was just taken is not offered any more
        if not self._ids[node]:
            self._ended(node, NO_PLACE)
            return
        where = On(self._ids[node], soft=False)
        gpus = self._nodes[node].gpus
        outpost = self._actor.options(num_cpus=0, num_gpus=gpus, scheduling_strategy=where).remote()
        self._outposts[node] = outpost
        versions = (self._versions.tool, self._versions.vllm, self._versions.python)
        started = outpost.start.remote(self._posts[node], versions)
        self._when_done(started, lambda done: self._started(node, outpost, done))

    def _look(self) -> None:
        """Query the nodes every `LOOK_S`, in a thread: the query may block, the loop must not."""
        failed = False
        while True:
            try:
                nodes = _living()
            except _refusals() as error:
                if not failed:
                    logger.warning("Ray does not list the nodes of its cluster: %s", _words(error))
                failed = True
            else:
                failed = False
                self._call(partial(self._seen, nodes))
            time.sleep(LOOK_S)

    def _seen(self, nodes: list[Node]) -> None:
        """Send the offered nodes to the supervisor if they have changed."""
        offered = offers(nodes, self._nodes, self._ids)
        if offered != self._offered:
            self._offered = offered
            self._control.send_state(NodesOffered(offered))

    def _call(self, callback: Callback) -> None:
        """Have the loop call `callback`; may be called from any thread."""
        self._callbacks.put(callback)
        os.eventfd_write(self._bell, 1)

    def _when_done(self, reference: Any, act: Callable[[Future[Any]], None]) -> None:
        def ring(done: Future[Any]) -> None:
            self._call(partial(act, done))

        reference.future().add_done_callback(ring)

    def _started(self, node: int, outpost: Any, done: Future[Any]) -> None:
        if not self._is_current(node, outpost):
            return
        if (error := done.exception()) is not None:
            self._ended(node, _words(error))
        elif found := done.result():
            self._ended(node, found["message"], found["error"])
        else:
            self._when_done(outpost.wait.remote(), lambda end: self._over(node, outpost, end))

    def _is_current(self, node: int, outpost: Any) -> bool:
        return self._outposts.get(node) is outpost

    def _over(self, node: int, outpost: Any, done: Future[Any]) -> None:
        if self._is_current(node, outpost):
            error = done.exception()
            self._ended(node, done.result() if error is None else _words(error))

    def _ended(self, node: int, why: str, error: str = "") -> None:
        self._outposts.pop(node, None)
        self._control.send(OutpostEnded(node, why, error))


def _living() -> list[Node]:
    return [Node(**one) for one in living()]


def _refusals() -> tuple[type[Exception], ...]:
    """What Ray raises when it does not answer."""
    import ray  # noqa: PLC0415

    return ray.exceptions.RayError, RuntimeError, OSError


def _words(error: BaseException) -> str:
    """The reason that Ray gives, in one line."""
    text = IDS.sub("", str(error))
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
