"""The supervisor of a run on several machines: workers run on other nodes, all else here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from dynamo_cli.cluster_config import Node
from dynamo_cli.config import ChildConfig
from dynamo_cli.errors import DynamoError
from dynamo_cli.messages.cluster import (
    Carry,
    NodesOffered,
    NodeTable,
    OutpostEnded,
    RelayBound,
    RelayCut,
    RelayJoined,
    RelayStats,
)
from dynamo_cli.messages.flows import ToSupervisor
from dynamo_cli.messages.lifecycle import NODE_LOST, Phase
from dynamo_cli.serve_config import ServeConfig
from dynamo_cli.supervisor.child import Child, Start
from dynamo_cli.supervisor.nodes import Nodes
from dynamo_cli.supervisor.remote_child import RemoteChild
from dynamo_cli.supervisor.retirement import NOT_LISTENING
from dynamo_cli.supervisor.tree import Supervisor
from dynamo_cli.supervisor.view import View
from dynamo_cli.topology import CLUSTER, FRONTEND, ProcessId, Role

OF_NODES = (RelayBound, RelayJoined, RelayCut, RelayStats, Carry, OutpostEnded)


class ClusterSupervisor(Supervisor):
    """One run of the process tree on several machines. Make it in a running event loop."""

    def __init__(self, config: ServeConfig, view: View) -> None:
        super().__init__(config, view)
        self._nodes = Nodes(config, self)
        self._probing: Child | None = None
        self._background.keep(self._nodes.run)

    # -- starting --------------------------------------------------------------------------

    def _node_of(self, process: ProcessId) -> str:
        node = self._config.node_of(process)
        return node.name if node is not None else ""

    def _config_of(self, process: ProcessId) -> ChildConfig:
        return self._nodes.config_of(process) or super()._config_of(process)

    def _needs_zygote(self, process: ProcessId) -> bool:
        return not self._node_of(process) and super()._needs_zygote(process)

    def _start(self, process: ProcessId) -> None:
        node = self._node_of(process)
        if not node or self._nodes.is_up(node):
            super()._start(process)
            if process == CLUSTER:
                self._nodes.place()
        elif (child := self._children.get(process)) is not None:
            child.move_to(*self._awaits(process, Phase.BACKOFF))

    def _awaits(self, process: ProcessId, phase: Phase) -> tuple[Phase, str]:
        node = self._node_of(process)
        if node and not self._nodes.is_up(node):
            return phase, f"waiting for {node}"
        return super()._awaits(process, phase)

    def _make(self, start: Start) -> Child:
        node = self._node_of(start.process)
        if not node:
            return super()._make(start)
        child = self._nodes.child_on(node, start)
        # The outpost must know it before it hears of its links.
        child.begin(forked=self._config.forked(child.process))
        return child

    def _begin(self, child: Child) -> None:
        if not isinstance(child, RemoteChild):
            super()._begin(child)

    # -- children --------------------------------------------------------------------------

    def on_report(self, child: Child, message: ToSupervisor, descriptors: Sequence[int]) -> None:
        """Act on a message of a child."""
        if isinstance(message, NodesOffered):
            self._on_offered(tuple(message.nodes))
        elif isinstance(message, OF_NODES):
            self._nodes.on_report(child, message)
        else:
            super().on_report(child, message, descriptors)

    def on_exit(self, child: Child, exit_code: int | None) -> None:
        """Act on the exit of a child."""
        super().on_exit(child, exit_code)
        self._nodes.on_exit(child.process)

    def _ends_start(self, child: Child) -> bool:
        return super()._ends_start(child) and not self._is_lost(child)

    def _is_lost(self, child: Child) -> bool:
        """Whether it is gone with its node, and not by itself."""
        return isinstance(child, RemoteChild) and not self._nodes.is_up(child.node)

    def _restart_later(self, child: Child, how: str, *rest: Any, killed: bool = False) -> Any:
        killed = killed or self._is_lost(child)
        return super()._restart_later(child, how, *rest, killed=killed)

    def _probe(self, worker: Child) -> None:
        frontend = self._children[FRONTEND]
        if isinstance(worker, RemoteChild):
            if frontend is not self._probing:
                self._probing = frontend  # an earlier frontend answers nothing any more
                for child in self._children.values():
                    if isinstance(child, RemoteChild):
                        child.probes = 0
            worker.probes += self._can_probe()
        super()._probe(worker)

    def _on_probe(self, worker: Child, error: str) -> None:
        """Act on the newest answer only: an earlier one is about links that were replaced."""
        if isinstance(worker, RemoteChild):
            worker.probes = max(0, worker.probes - 1)
            if worker.probes:
                return
        super()._on_probe(worker, error)

    # -- more nodes --------------------------------------------------------------------------

    def _on_offered(self, nodes: tuple[Node, ...]) -> None:
        """Remember which nodes could be used too, and say which of them are new."""
        config, cluster = self._config, self._config.cluster
        assert cluster is not None
        width = len(config.engine_devices[0])
        # A node that has just got into the plan counts as unused until its outpost is placed.
        planned = {node.ray_id for node in cluster.nodes}
        unused = (node for node in nodes if node.ray_id not in planned)
        useful = tuple(node for node in unused if node.gpus >= width)
        known = {node.ray_id for node in cluster.offered}
        self._config = replace(config, cluster=replace(cluster, offered=useful))
        for node in useful:
            if node.ray_id not in known:
                self._log_fanout.notice("INFO", offer_of(node, can=config.frontend.admin))
        self._publish()

    def _offered(self) -> dict[str, int]:
        cluster = self._config.cluster
        return {node.name: node.gpus for node in cluster.offered} if cluster is not None else {}

    def _lost_nodes(self) -> set[str]:
        return self._nodes.lost()

    def _start_workers(self) -> None:
        """Start the relays of nodes that are new in the plan, and workers on those that are up."""
        self._nodes.follow(self._config)
        for process in self._config.tree():
            if process.role is Role.RELAY and process not in self._children:
                self._start(process)
        super()._start_workers()

    # -- what nodes ask for ------------------------------------------------------------------

    def child(self, process: ProcessId) -> Child | None:
        """The latest child of this process."""
        return self._children.get(process)

    def children_of(self, node: str) -> list[RemoteChild]:
        """The children on this node that live."""
        return [
            child
            for child in self._alive()
            if isinstance(child, RemoteChild) and child.node == node
        ]

    def on_node_up(self, node: str, present: dict[str, str]) -> None:
        """See `NodeParent`."""
        if self._ending.begun:
            return
        joined = [child for child in self._alive() if child.node != node]
        for child in self.children_of(node):
            self._links.join(child, self._retirements.staying(joined, child.process))
            joined.append(child)
        for child in self.children_of(node):
            phase = Phase(present[child.process.name])
            if child.process in self._retirements:
                # What was said to the node while it was lost may not have arrived.
                listens = phase not in NOT_LISTENING
                self._background.start(self._retirements.stop(child, listens=listens))
            else:
                self._on_phase(child, phase, "")
        for process in self._config.tree():
            known = self._children.get(process)
            missing = known is None or (not known.alive and known.phase is not Phase.FAILED)
            if self._node_of(process) == node and missing:
                self._start(process)
        self._publish()

    def on_node_down(self, node: str, why: str, *, told: bool = False) -> None:
        """See `NodeParent`."""
        if self._ending.stopping:
            return
        for child in self.children_of(node):
            self._links.part(child, self._alive(), f"{NODE_LOST}: {why}")
            child.control.drop_links()
            self._retirements.parted(child.process)
            if child.process not in self._retirements:
                child.move_to(Phase.BACKOFF, why)
        if not told:
            self._log_fanout.notice("WARNING", f"{node} is lost: {why}; its requests move")
        self._publish()

    def give_up_start(self, failure: DynamoError) -> bool:
        """End the run if it has not served yet; returns whether that was so."""
        if not self._has_served:
            self._ending.give_up(failure)
        return not self._has_served

    def show_nodes(self, table: NodeTable) -> None:
        """Pass the state of all nodes on to the frontend."""
        frontend = self._children.get(FRONTEND)
        if frontend is not None and frontend.alive:
            frontend.control.send_state(table)

    def notice(self, level: str, text: str) -> None:
        """Show a line to people."""
        self._log_fanout.notice(level, text)


def offer_of(node: Node, *, can: bool) -> str:
    """The log line about a node that could be used too; `can`: whether workers can be added."""
    gpus = f" and has {node.gpus} free GPU{'s' if node.gpus != 1 else ''}" if node.gpus else ""
    how = "POST /dynamo/workers" if can else "a server with --enable-admin"
    return (
        f"{node.name} ({node.address}) of the cluster runs nothing of this server{gpus}: {how} "
        "can put workers there"
    )
