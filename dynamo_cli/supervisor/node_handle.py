"""One other node of a run, as the supervisor knows it, and what nodes ask of the supervisor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from dynamo_cli.cluster_config import Node
from dynamo_cli.errors import DynamoError
from dynamo_cli.ipc.codec import encode
from dynamo_cli.messages.base import Message
from dynamo_cli.messages.cluster import Carry, NodeTable
from dynamo_cli.relay.wire import key_pair
from dynamo_cli.supervisor.child import Child, Parent
from dynamo_cli.supervisor.node_counts import NodeCounts
from dynamo_cli.supervisor.remote_child import RemoteChild
from dynamo_cli.topology import ProcessId, Role


class NodeParent(Parent, Protocol):
    """What nodes ask of the supervisor."""

    def child(self, process: ProcessId) -> Child | None:
        """The latest child of this process."""

    def children_of(self, node: str) -> list[RemoteChild]:
        """The children on this node that live."""

    def on_node_up(self, node: str, present: dict[str, str]) -> None:
        """Join what lives there (phase by name of the process), and start what is missing.

        Raises:
            OSError: the system does not let the links be made.
        """

    def on_node_down(self, node: str, why: str, *, told: bool) -> None:
        """Part the children of this node from all others.

        Args:
            told: whether people know this already.
        """

    def give_up_start(self, failure: DynamoError) -> bool:
        """End the run if it has not served yet; returns whether that was so."""

    def show_nodes(self, table: NodeTable) -> None:
        """Pass the state of all nodes on to the frontend."""

    def notice(self, level: str, text: str) -> None:
        """Show a line to people."""


class NodeHandle:
    """One other machine.

    Attributes:
        index: its position in the plan, which is also the number of its relay.
        joined: whether both ends of its relay are connected.
        resetting: whether its outpost has been asked who is there, and has not answered yet.
        up: whether its outpost answers.
        trouble: what people were told last of why it is not up; empty once it is.
        placed: whether Ray was asked to start its outpost, which has not ended since.
        heard_s: when its outpost was heard last, by the time that the head was awake.
        awaited_s: since when the outpost should connect, by the same time; None if none is started.
        unheard: how many outposts ended because they did not hear the head.
        outpost: the start of the outpost that answered last.
        counts: what is counted of it.
    """

    def __init__(self, index: int, machine: Node, tree: NodeParent) -> None:
        self.index, self.machine = index, machine
        self._tree = tree
        self.relay_id = ProcessId(Role.RELAY, index)
        self.head_keys, self.node_keys = key_pair(), key_pair()
        self.port = 0
        self.up = self.joined = self.resetting = False
        self.outpost = ""
        self.heard_s: float | None = None
        self.placed = False
        self.awaited_s: float | None = None
        self.again_s = 0.0
        self.unheard = 0
        self.trouble = ""
        self.counts = NodeCounts()

    def relay(self, message: Message, descriptors: Sequence[int] = ()) -> None:
        """Send to the head's end of the relay."""
        child = self._tree.child(self.relay_id)
        if child is not None and child.alive:
            child.control.send(message, descriptors)

    def tell(self, message: Message) -> None:
        """Send to the outpost."""
        self.relay(Carry(encode(message)))
