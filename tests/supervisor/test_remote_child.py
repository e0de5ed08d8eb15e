"""A child on another node: what the relay and the outpost are told of it, without processes."""

from __future__ import annotations

import signal
from typing import Any

from dynamo_cli.config import EngineConfig, ZygoteConfig
from dynamo_cli.messages.base import Message
from dynamo_cli.messages.cluster import (
    ChildGone,
    JoinBeside,
    JoinChild,
    PartChild,
    RelayDown,
    RelayUp,
    SignalChild,
)
from dynamo_cli.messages.lifecycle import LinkDown, LinkUp, PeerEnded
from dynamo_cli.supervisor.child import Child, Start
from dynamo_cli.supervisor.links import Links
from dynamo_cli.supervisor.remote_child import RemoteChild
from dynamo_cli.topology import FRONTEND, ROUTER, ProcessId, Role

CONFIG = ZygoteConfig(EngineConfig("tiny", "tiny", ("tiny",)))


class Way:
    """A node that keeps what it is told."""

    def __init__(self) -> None:
        self.up = True
        self.relayed: list[Any] = []
        self.told: list[Any] = []

    def relay(self, message: Message, descriptors: object = ()) -> None:
        self.relayed.append(message)

    def tell(self, message: Message) -> None:
        self.told.append(message)


class Ears:
    """A supervisor that hears of nothing but exits."""

    def __init__(self) -> None:
        self.ended: list[Child] = []

    def on_exit(self, child: Child, exit_code: int | None) -> None:
        self.ended.append(child)


def child(way: Way, role: Role, index: int = 0, node: str = "node-a") -> RemoteChild:
    start = Start(ProcessId(role, index), CONFIG, "INFO")
    return RemoteChild(start, Ears(), node, way)  # type: ignore[arg-type]


def test_links_are_made_and_ended_at_the_relay_too() -> None:
    way = Way()
    worker = child(way, Role.WORKER)
    for generation, peer in ((3, ROUTER), (4, FRONTEND)):
        worker.control.send(LinkUp(peer.name, generation))
    assert way.relayed == [RelayUp(3), RelayUp(4)]
    assert way.told == [JoinChild("worker 0", "router", 3), JoinChild("worker 0", "frontend", 4)]
    worker.control.send(LinkDown("router", 3, "it ended"))
    assert way.relayed[2:] == [RelayDown(3)]
    assert way.told[2:] == [PartChild("worker 0", "router", 3, "it ended")]


def test_a_child_that_is_gone_leaves_no_link_at_the_relay_and_none_is_dropped_twice() -> None:
    way = Way()
    worker = child(way, Role.WORKER)
    for generation in (3, 4):
        worker.control.send(LinkUp("router", generation))
    worker.control.send(LinkDown("router", 3, "replaced"))
    del way.relayed[:]
    worker.lost("its node is gone")
    assert way.relayed == [RelayDown(4)]
    worker.control.drop_links()
    assert way.relayed == [RelayDown(4)]


def test_the_outpost_ends_a_child_whose_links_could_not_be_made() -> None:
    """Else the next one of its name would run beside it."""
    way = Way()
    worker = child(way, Role.WORKER)
    worker.begin(forked=False)
    worker.control.send(LinkUp("router", 3))
    worker.discard()
    assert way.told[2:] == [SignalChild("worker 0", signal.SIGKILL)]
    assert way.relayed == [RelayUp(3), RelayDown(3)]
    assert not worker.alive


def test_engines_and_the_host_cache_of_a_node_are_joined_there_without_the_relay() -> None:
    way = Way()
    cache = child(way, Role.HOST_CACHE, 1)
    worker, prefill = child(way, Role.WORKER), child(way, Role.PREFILL_WORKER)
    links = Links()
    links.join(cache, [])
    links.join(worker, [cache])
    links.join(prefill, [cache, worker])
    assert way.relayed == []
    assert way.told == [
        JoinBeside("worker 0", "host cache 1", 1),
        JoinBeside("prefill worker 0", "worker 0", 2),
        JoinBeside("prefill worker 0", "host cache 1", 3),
    ]
    links.ended(worker, [cache, prefill], "it ended")
    assert sorted(way.told[3:], key=lambda one: one.generation) == [
        PartChild("host cache 1", "worker 0", 1, "it ended"),
        PartChild("prefill worker 0", "worker 0", 2, "it ended"),
    ]


class Here:
    """A child on this machine that keeps what it is told."""

    reachable, node = True, ""

    def __init__(self, role: Role) -> None:
        self.process = ProcessId(role)
        self.told: list[Any] = []
        self.control = self

    def send(self, message: Message, descriptors: object = ()) -> None:
        self.told.append(message)

    def join_beside(self, peer: object, generation: int) -> bool:
        return False


def test_the_host_cache_of_this_machine_is_told_of_an_end_and_not_of_a_lost_link() -> None:
    cache, router, worker = map(Here, (Role.HOST_CACHE, Role.ROUTER, Role.WORKER))
    links: Any = Links()
    links.join(worker, [cache, router])
    links.part(worker, [cache, router], "node_lost")
    links.join(worker, [cache, router])
    links.ended(worker, iter([cache, router]), "it ended")
    kinds = [[type(one) for one in other.told] for other in (cache, router)]
    twice = [LinkUp, LinkDown, LinkUp, LinkDown]
    assert kinds == [[*twice, PeerEnded], twice]
    cache.told.clear()
    links.ended(router, [cache], "it ended")
    assert cache.told == []


def test_no_engine_is_joined_with_the_host_cache_of_another_node() -> None:
    way, other = Way(), Way()
    cache, far = child(way, Role.HOST_CACHE, 1), child(other, Role.WORKER, 1, "node-b")
    links = Links()
    links.join(far, [cache])
    links.part(far, [cache], "it ended")
    assert (way.relayed, way.told, other.relayed, other.told) == ([], [], [], [])
    prefill = child(way, Role.PREFILL_WORKER)
    links.join(far, [prefill])  # these may be apart: the link goes through both relays
    assert [type(one) for one in (*way.told, *other.told)] == [JoinChild, JoinChild]


def test_the_reason_that_the_supervisor_has_given_is_kept() -> None:
    """The outpost does not know why it was told to kill a worker, such as for a failed probe."""
    worker = child(Way(), Role.WORKER)
    worker.failure = ("ChildFailed", "its probe failed")
    worker.told(ChildGone("worker 0", -9))
    assert not worker.alive
    assert worker.failure == ("ChildFailed", "its probe failed")
