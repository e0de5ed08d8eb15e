"""Workers that retire while their node is lost, or die meanwhile: the next of that name is used."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from dynamo_cli.config import RouterConfig
from dynamo_cli.ipc.codec import Decoder, encode
from dynamo_cli.messages.cluster import (
    Carry,
    ChildGone,
    FromSupervisor,
    JoinBeside,
    JoinChild,
    TellChild,
)
from dynamo_cli.messages.lifecycle import LinkDown, LinkUp, Phase, Retire, Stop
from dynamo_cli.processor.dispatch import Dispatch
from dynamo_cli.router.state import RouterState
from dynamo_cli.supervisor.child import Start
from dynamo_cli.supervisor.cluster_tree import ClusterSupervisor
from dynamo_cli.supervisor.remote_child import RemoteChild
from dynamo_cli.supervisor.revival import Restarts
from dynamo_cli.topology import ROUTER, ProcessId, Role
from tests.cluster.test_plan import planned
from tests.router.test_state import ready
from tests.supervisor.runs import play

FIRST, WORKER, CACHE = (
    ProcessId(Role.WORKER, 0),
    ProcessId(Role.WORKER, 1),
    ProcessId(Role.HOST_CACHE, 1),
)
PROCESSOR, RELAY = ProcessId(Role.PROCESSOR, 0), ProcessId(Role.RELAY, 0)
NODE = "node-0"


class Peer:
    """A router and a processor in one: what both make of what the supervisor says."""

    alive, reachable, node, phase = True, True, "", Phase.READY

    def __init__(self, process: ProcessId) -> None:
        self.process = process
        self.links: dict[str, int] = {}
        self.control = SimpleNamespace(send=self.hear, flush=lambda: True)
        board: Any = SimpleNamespace(report=lambda *_: None)
        self.dispatch = Dispatch(board, routed=True)
        self.router = RouterState(RouterConfig("least-loaded"))

    def join_beside(self, *_: object) -> bool:
        return False

    def hear(self, message: object, descriptors: Sequence[int] = ()) -> None:
        match message:
            case LinkUp(peer, generation):
                self.links[peer] = generation
            case LinkDown(peer, generation) if self.links.get(peer) == generation:
                del self.links[peer]
                self.dispatch.worker_gone(ProcessId.parse(peer).index)
                self.router.worker_down(ProcessId.parse(peer).index)
            case Retire(worker):
                self.dispatch.worker_retired(worker)
                self.router.worker_retired(worker)

    def uses(self, worker: int) -> bool:
        """Whether it sends requests to a linked worker once that says that its engine is up."""
        if ProcessId(Role.WORKER, worker).name in self.links:
            self.dispatch.worker_ready(worker)
            self.router.worker_up(ready(worker))
        known = worker in self.router.ledger.books and worker not in self.router._retired
        return known and worker in self.dispatch.ready_workers()


class Run:
    """A supervisor with two workers and a host cache on one node; make it in a running loop."""

    def __init__(self) -> None:
        view: Any = SimpleNamespace(notice=lambda *_: None, processes=lambda _: None)
        config = planned(2, workers="2", router="kv", host_cache="1GiB")
        self.tree = tree = ClusterSupervisor(config, view)
        tree._publish = lambda: None  # type: ignore[method-assign]
        tree._has_served = True
        self.node = tree._nodes._named(NODE)
        self.node.up = True
        self.told: list[Any] = []
        decoder = Decoder(FromSupervisor)

        def relay(message: Any, descriptors: Sequence[int] = ()) -> None:
            if isinstance(message, Carry):
                self.told.append(decoder(message.payload))

        self.peers = [Peer(ROUTER), Peer(PROCESSOR)]
        children: dict[ProcessId, Any] = {peer.process: peer for peer in self.peers}
        children[RELAY] = SimpleNamespace(
            process=RELAY,
            alive=True,
            node="",
            reachable=True,
            phase=Phase.READY,
            control=SimpleNamespace(send=relay),
        )
        for process in (FIRST, WORKER, CACHE):
            start = Start(process, config.config_of(process), "INFO")
            child = children[process] = RemoteChild(start, tree, NODE, self.node)
            child.pid = 5
            child.move_to(Phase.READY)
            tree._links.join(child, list(children.values()))
        tree._children.update(children)
        tree._restarts.update({one: Restarts(config.restart) for one in children})
        self.worker = children[WORKER]

    def retire(self) -> None:
        self.tree._rescale(1)

    def add(self) -> None:
        self.tree._rescale(2)

    def lose(self) -> None:
        self.node.up = False
        self.tree.on_node_down(NODE, "it is silent")

    def back(self) -> None:
        """The node is back with all that was not seen to end."""
        self.node.up = True
        living = self.tree.children_of(NODE)
        self.tree.on_node_up(NODE, {child.process.name: Phase.READY for child in living})

    def end(self) -> None:
        """The worker ends by itself, or is not there any more when its node is back."""
        if self.node.up:
            self.worker.told(ChildGone(WORKER.name, -9, None, "", []))
        else:
            self.worker.lost("the node came back without it")

    def restart_peers(self) -> None:
        """The router and the processor die and are started again."""
        for peer in self.peers:
            peer.alive = False
            self.tree._retirements.ended(peer.process)
            self.tree._links.ended(peer, self.tree._alive(), "")  # type: ignore[arg-type]
        self.peers = [Peer(peer.process) for peer in self.peers]
        for peer in self.peers:
            children: Any = self.tree._children
            staying = self.tree._retirements.staying(self.tree._alive(), peer.process)
            children[peer.process] = peer
            self.tree._links.join(peer, staying)  # type: ignore[arg-type]


in_a_run = partial(play, Run)


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    "order",
    [
        "retire end add",
        "retire add end",
        "retire retire end add",
        "retire add retire end add",
        "retire restart_peers end add",
        "retire restart_peers add end",
        "retire lose end back add",
        "retire lose back end add",
        "retire lose add end back",
        "retire lose restart_peers back end add",
        "lose retire end back add",
        "lose retire end add back",
        "lose retire back end add",
        "lose retire add back end",
        "lose retire restart_peers end back add",
        "lose end retire back add",
    ],
)
def test_a_worker_added_after_one_that_retired_gets_requests(order: str) -> None:
    async def scenario(run: Run) -> None:
        for step in order.split():
            getattr(run, step)()
            if run.worker.alive and WORKER in run.tree._retirements:
                assert not any(peer.uses(1) for peer in run.peers), step
            await settled()
        added = run.tree._children[WORKER]
        assert added is not run.worker
        assert added.alive
        assert all(peer.uses(1) for peer in run.peers)
        assert all(peer.uses(0) for peer in run.peers)

    in_a_run(scenario)


@pytest.mark.parametrize("order", ["retire lose", "lose retire"])
def test_one_whose_node_is_back_has_links_to_the_host_cache_alone_and_is_stopped(
    order: str,
) -> None:
    """What it was told while the node was lost may not have arrived."""

    async def scenario(run: Run) -> None:
        for step in order.split():
            getattr(run, step)()
            await settled()
        del run.told[:]
        run.back()
        await settled()
        assert run.worker.phase is Phase.DRAINING
        assert TellChild(WORKER.name, encode(Stop())) in run.told
        joined = [one for one in run.told if isinstance(one, (JoinBeside, JoinChild))]
        ends = [{one.process, one.peer} for one in joined if WORKER.name in (one.process, one.peer)]
        assert ends == [{WORKER.name, CACHE.name}]

    in_a_run(scenario)


def test_one_that_ended_while_requests_ran_on_it_does_not_stop_the_next_of_its_name() -> None:
    async def scenario(run: Run) -> None:
        run.tree._retirements._drain_timeout_s = 0.01
        before = set(run.tree._background._tasks)
        run.retire()
        (retiring,) = run.tree._background._tasks - before
        await settled()
        run.end()
        run.add()
        del run.told[:]
        await retiring
        assert run.tree._children[WORKER].alive
        assert TellChild(WORKER.name, encode(Stop())) not in run.told

    in_a_run(scenario)


@pytest.mark.parametrize("order", ["lose retire", "retire lose"])
def test_one_whose_node_stays_lost_counts_as_ended(order: str) -> None:
    """Else the next one of its name would wait for it for ever, wherever that is to run."""

    async def scenario(run: Run) -> None:
        run.tree._retirements._stop_timeout_s = 0.01
        before = set(run.tree._background._tasks)
        for step in order.split():
            getattr(run, step)()
            await settled()
        async with asyncio.timeout(10):
            await asyncio.gather(*(run.tree._background._tasks - before))
        assert not run.worker.alive
        assert WORKER not in run.tree._retirements
        run.add()
        run.back()
        added = run.tree._children[WORKER]
        assert added.alive
        assert added is not run.worker

    in_a_run(scenario)
