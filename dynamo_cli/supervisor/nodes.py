"""The other nodes of a run: their relays and outposts, which join, are lost, and join again.

A node is *up* while its outpost answers. When it is lost, its children count as gone for all other
processes; when it is back, children that live get new links.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from dynamo_cli.cluster_config import ClusterPlan, RelayConfig
from dynamo_cli.config import ENGINE_ROLES
from dynamo_cli.errors import ChildFailed, ResourceError, error_class
from dynamo_cli.host import oserrors
from dynamo_cli.ipc.codec import Decoder
from dynamo_cli.messages.cluster import (
    HEAD_UNHEARD,
    Beat,
    Carry,
    ChildGone,
    ChildTold,
    ChildWrote,
    FromOutpost,
    LivingChildren,
    NodeTable,
    OutpostEnded,
    PlaceOutpost,
    RelayBound,
    RelayCut,
    RelayJoined,
    RelayStats,
    ResetLinks,
    SignalChild,
)
from dynamo_cli.messages.lifecycle import Phase
from dynamo_cli.serve_config import ServeConfig
from dynamo_cli.supervisor.awake import AwakeClock
from dynamo_cli.supervisor.child import Child, Start
from dynamo_cli.supervisor.node_handle import NodeHandle, NodeParent
from dynamo_cli.supervisor.post import Post, Versions
from dynamo_cli.supervisor.remote_child import RemoteChild
from dynamo_cli.supervisor.verdict import start_hint
from dynamo_cli.topology import CLUSTER, ProcessId, Role

AGAIN_S = 1.0
"""Seconds from the end of an outpost to its next start."""

BOOT = Path("/proc/sys/kernel/random/boot_id")


class Nodes:
    """All other machines of a run.

    Args:
        config: the plan.
        tree: the supervisor.
    """

    def __init__(self, config: ServeConfig, tree: NodeParent) -> None:
        assert config.cluster is not None
        self._config, self._tree = config, tree
        self._plan: ClusterPlan = config.cluster
        self._timeouts = self._plan.timeouts
        self._awake = AwakeClock(self._timeouts.beat_s, time.monotonic)
        self._nodes = [NodeHandle(index, one, tree) for index, one in enumerate(self._plan.nodes)]
        self._decoder: Callable[[bytes], Any] = Decoder(FromOutpost)
        self._boot = BOOT.read_text().strip()

    def follow(self, config: ServeConfig) -> None:
        """Take over a plan that may have more nodes. Their relays are to be started."""
        assert config.cluster is not None
        self._config, self._plan = config, config.cluster
        new = enumerate(self._plan.nodes[len(self._nodes) :], len(self._nodes))
        self._nodes += [NodeHandle(index, one, self._tree) for index, one in new]

    def _named(self, name: str) -> NodeHandle:
        return next(node for node in self._nodes if node.machine.name == name)

    def config_of(self, process: ProcessId) -> RelayConfig | None:
        """The configuration of the head's end of a relay; None for other processes."""
        if process.role is not Role.RELAY:
            return None
        node = self._nodes[process.index]
        public, secret = node.head_keys
        return RelayConfig(
            self._plan.head, node.port, public, secret, node.node_keys[0], listens=True
        )

    def is_up(self, name: str) -> bool:
        """Whether processes can be started on this node; False for one that is not followed yet."""
        return any(node.up for node in self._nodes if node.machine.name == name)

    def lost(self) -> set[str]:
        """Names of the nodes that were up once, and are not now."""
        return {one.machine.name for one in self._nodes if one.heard_s is not None and not one.up}

    def child_on(self, name: str, start: Start) -> RemoteChild:
        """Make a child of this node, which `begin` then starts."""
        return RemoteChild(start, self._tree, name, self._named(name))

    # -- reports -------------------------------------------------------------------------------

    def on_report(self, child: Child, message: Any) -> None:
        """Act on a message of a relay, or of the process that speaks with Ray."""
        if isinstance(message, OutpostEnded):
            self._on_outpost_ended(self._nodes[message.node], message)
            return
        node = self._nodes[child.process.index]
        match message:
            case RelayBound(port):
                node.port = port
                if not node.placed:  # else the relay was started again, for the same outpost
                    self.place([node])
            case RelayJoined():
                self._on_cut(node, "the relay has connected again")
                node.counts.joined()
                node.joined, node.heard_s = True, self._awake.now()
                self._reset_links(node)
            case RelayCut(reason):
                node.joined = False
                node.counts.cut()
                self._on_cut(node, reason)
            case RelayStats():
                node.counts.relay(message)
            case Carry(payload):
                self._on_outpost(node, self._decoder(payload))

    def _reset_links(self, node: NodeHandle) -> None:
        node.resetting = True
        node.tell(ResetLinks(self._boot, time.monotonic_ns()))

    def on_exit(self, process: ProcessId) -> None:
        """A relay, or the process that speaks with Ray, has ended."""
        if process.role is Role.RELAY:
            node = self._nodes[process.index]
            node.joined = False
            node.counts.relay_ended()
            self._on_cut(node, f"{process.name} has ended")

    def place(self, nodes: Iterable[NodeHandle] | None = None) -> None:
        """Have outposts started on these nodes, or on all whose relay listens."""
        cluster = self._tree.child(CLUSTER)
        if cluster is None or not cluster.alive:
            return
        for node in self._nodes if nodes is None else nodes:
            if node.port:
                node.placed, node.awaited_s = True, self._awake.now()
                post = self._post(node).dump()
                cluster.control.send(PlaceOutpost(node.index, node.machine, post))

    def _post(self, node: NodeHandle) -> Post:
        public, secret = node.node_keys
        config = self._config
        relay = RelayConfig(
            self._plan.head, node.port, public, secret, node.head_keys[0], listens=False
        )
        engines = [one for one in config.tree() if one.role in ENGINE_ROLES]
        devices = config.devices_of(engines[0])
        forks = any(map(config.forked, engines))
        return Post(
            node.machine.name,
            node.machine.address,
            relay,
            replace(config.engine, devices=devices),
            forks,
            Versions.here(),
            config.worker_timeout_s,
            self._timeouts,
            config.host_cache,
        )

    def _on_cut(self, node: NodeHandle, why: str) -> None:
        node.awaited_s = self._awake.now() if node.placed else None
        if node.up:
            node.up = False
            self._tree.on_node_down(node.machine.name, why, told=why == node.trouble)

    def _on_outpost_ended(self, node: NodeHandle, ended: OutpostEnded) -> None:
        why = f"{node.machine.name}: {ended.reason}"
        node.placed, node.awaited_s = False, None
        failure = error_class(ended.error or ChildFailed.__name__)(why)
        if self._lost_touch(node, ended) or not self._tree.give_up_start(failure):
            if node.trouble != why:
                self._tree.notice("WARNING", f"the outpost has ended: {why}; it is started again")
            node.trouble, node.again_s = why, time.monotonic() + AGAIN_S
        self._on_cut(node, ended.reason)
        for child in self._tree.children_of(node.machine.name):
            child.lost(f"the outpost on {node.machine.name} has ended")

    def _lost_touch(self, node: NodeHandle, ended: OutpostEnded) -> bool:
        """Count an outpost that did not hear the head; returns whether that may pass.

        Then a machine or the network was too busy. If it happens again and again it does not pass.
        """
        if not ended.reason.startswith(HEAD_UNHEARD):
            return False
        node.unheard += 1
        return node.unheard <= self._config.restart.limit

    # -- outposts ------------------------------------------------------------------------------

    def _on_outpost(self, node: NodeHandle, message: Any) -> None:
        node.heard_s = self._awake.now()
        if isinstance(message, ChildWrote):
            node.counts.line(message.number, resetting=node.resetting)
        match message:
            case Beat():
                node.counts.answered(message, time.monotonic())
                if not node.up and not node.resetting:
                    self._reset_links(node)
            case LivingChildren(outpost, _, children, lines):
                node.resetting = False
                node.counts.rolled(lines, anew=outpost != node.outpost)
                present = {one.process: one.phase for one in children}
                for child in self._tree.children_of(node.machine.name):
                    if outpost != node.outpost or child.process.name not in present:
                        child.lost(f"{node.machine.name} was lost, and came back without it")
                node.outpost = outpost
                if not self._end_unknown(node, present):
                    node.up = True
                    self._join(node, present)
            case ChildWrote("", level, text):
                self._tree.notice(level, f"{node.machine.name}: {text}")
            case ChildTold(process) | ChildWrote(process) | ChildGone(process):
                known = self._tree.child(ProcessId.parse(process))
                # Another node may have the next process of this name.
                here = isinstance(known, RemoteChild) and known.node == node.machine.name
                if isinstance(known, RemoteChild) and here and known.alive:
                    known.told(message)
                elif isinstance(message, ChildWrote):
                    node.counts.line_dropped()

    def _end_unknown(self, node: NodeHandle, present: Iterable[str]) -> bool:
        """End what was counted as ended while the node was lost; returns whether there was any.

        If so the node is not up yet, and is asked again after its next heartbeat: by then nothing
        is there whose place a new process could be given too early.
        """
        known = {child.process.name for child in self._tree.children_of(node.machine.name)}
        unknown = [process for process in present if process not in known]
        for process in unknown:
            node.tell(SignalChild(process, signal.SIGKILL))
        return bool(unknown)

    def _join(self, node: NodeHandle, present: dict[str, str]) -> None:
        """Join a node that is up; if that fails it is lost, until the next heartbeat at least."""
        try:
            self._tree.on_node_up(node.machine.name, present)
        except OSError as error:
            why = f"it cannot be joined: {oserrors.reason(error)}"
            failure = ResourceError(f"{node.machine.name}: {why}. {start_hint(error)}")
            if not self._tree.give_up_start(failure):
                self._on_cut(node, why)
                node.trouble = why
        else:
            node.trouble = ""

    async def run(self) -> None:
        """Send heartbeats, and find nodes that do not answer, until cancelled."""
        while True:
            await asyncio.sleep(self._timeouts.beat_s)
            self._look()
            self._tree.show_nodes(self.table())

    def table(self) -> NodeTable:
        """The state of all nodes."""
        now_s = self._awake.now()
        return NodeTable(
            [
                node.counts.state(
                    node.machine.name,
                    up=node.up,
                    silent_s=now_s - node.heard_s if node.heard_s is not None else 0.0,
                )
                for node in self._nodes
            ]
        )

    def _look(self) -> None:
        """Look at all nodes, once in each interval between two heartbeats."""
        awake_s = self._awake.look()
        for node in self._nodes:
            if node.again_s and time.monotonic() > node.again_s:
                node.again_s = 0.0
                self.place([node])
            if node.joined:
                self._listen_to(node, awake_s)
            else:
                self._await(node, awake_s)

    def _await(self, node: NodeHandle, awake_s: float) -> None:
        """Say so if the outpost does not connect."""
        if node.awaited_s is None:
            return
        if not self._speaks_with_ray():
            node.awaited_s = awake_s  # it cannot have been started yet
        elif awake_s - node.awaited_s > self._timeouts.join_s:
            node.awaited_s = awake_s
            self._not_joined(node)

    def _listen_to(self, node: NodeHandle, awake_s: float) -> None:
        """Send a heartbeat; a node that has answered none for long is lost.

        One that is not up gets the next heartbeat when it has answered the last: what an outpost
        does not read waits in its relay.
        """
        if node.up or not node.counts.awaits_beat:
            node.tell(node.counts.beat(time.monotonic()))
        assert node.heard_s is not None
        if node.up and (silent_s := awake_s - node.heard_s) > self._timeouts.lost_s:
            self._on_cut(node, f"{node.machine.name} has been silent for {silent_s:.0f} s")

    def _speaks_with_ray(self) -> bool:
        cluster = self._tree.child(CLUSTER)
        return cluster is not None and cluster.phase is Phase.READY

    def _not_joined(self, node: NodeHandle) -> None:
        why = (
            f"the outpost on {node.machine.name} has not connected to {self._plan.head}, port "
            f"{node.port}, within {self._timeouts.join_s:.0f} s; does a firewall block it?"
        )
        if not self._tree.give_up_start(ChildFailed(why)):
            self._tree.notice("WARNING", why)
