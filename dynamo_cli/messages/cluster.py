"""How the head, its relays, the outposts and the process that speaks with Ray work together.

A relay carries the frames of all links between the head and one node, and beside them the messages
between the supervisor and the outpost there (`Carry`), in one order.
"""

from __future__ import annotations

import msgspec

from dynamo_cli.cluster_config import Node
from dynamo_cli.messages.base import Message

# -- supervisor or outpost -> its relay, over the control socket -----------------------------


class RelayUp(Message, frozen=True):
    """Relay a new link, whose six descriptors come with the message, as with `LinkUp`."""

    generation: int


class RelayDown(Message, frozen=True):
    """Relay what the process at this end had written, then drop the link."""

    generation: int


class Carry(Message, frozen=True):
    """A message for the supervisor or the outpost at the other end; also from relay to parent."""

    payload: bytes


# -- relay -> supervisor or outpost ----------------------------------------------------------


class RelayBound(Message, frozen=True):
    """The head's end listens at this port."""

    port: int


class RelayConnection(Message, frozen=True):
    """From a node's end: whether there is a connection to the head now."""

    up: bool


class RelayJoined(Message, frozen=True):
    """The other end has connected; nothing of an earlier connection is left."""


class RelayCut(Message, frozen=True):
    """The connection was lost, or frames of it; `reason` says how. All links are dropped."""

    reason: str


class RelayStats(Message, frozen=True):
    """What the head's end of a relay has done since it was started, sent once a second.

    Attributes:
        sent_frames, sent_bytes: to the node.
        received_frames, received_bytes: from the node.
        refused_connections: connections that had another key than the node's.
        stale_frames: frames that came from a session that was over, and were dropped.
    """

    sent_frames: int = 0
    sent_bytes: int = 0
    received_frames: int = 0
    received_bytes: int = 0
    refused_connections: int = 0
    stale_frames: int = 0

    def __add__(self, other: RelayStats) -> RelayStats:
        """The sums of both."""
        pairs = zip(msgspec.structs.astuple(self), msgspec.structs.astuple(other), strict=True)
        return RelayStats(*(one + more for one, more in pairs))


# -- supervisor -> frontend, over the control socket -----------------------------------------


class NodeState(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Another node, as the head sees it.

    Attributes:
        up: whether its outpost answers.
        silent_s: time since the head has heard it, seconds.
        beat_s: how long the last heartbeat took to the node and back, seconds; None before any.
        relay: what the head's end of its relay has done since the start.
        reconnects: how often the relays have connected again.
        resyncs: how often frames were lost, so that all links of the node were made anew.
        lost_log_lines: lines of its log that were lost because the relays were not connected, or
            their process counted as ended.
    """

    name: str
    up: bool
    silent_s: float
    beat_s: float | None
    relay: RelayStats
    reconnects: int = 0
    resyncs: int = 0
    lost_log_lines: int = 0


class NodeTable(Message, frozen=True):
    """All other nodes, sent with each heartbeat."""

    nodes: list[NodeState]


# -- supervisor -> outpost, in `Carry` -------------------------------------------------------


class ResetLinks(Message, frozen=True):
    """End all links of all children, and answer with `LivingChildren`.

    Attributes:
        boot: the boot of the head's machine, as the kernel names it.
        now_ns: the head's monotonic clock.
    """

    boot: str
    now_ns: int


class StartChild(Message, frozen=True):
    """Start this child.

    Attributes:
        process: its name.
        start: pickled `supervisor.child.Start`.
        forked: whether the node's zygote forks it.
    """

    process: str
    start: bytes
    forked: bool


class SignalChild(Message, frozen=True):
    """Send a signal to a child."""

    process: str
    number: int


class TellChild(Message, frozen=True):
    """Pass a message (`ToChild`) on to the control socket of a child."""

    process: str
    payload: bytes


class JoinChild(Message, frozen=True):
    """Make a link between a child and the relay, which stands for `peer`."""

    process: str
    peer: str
    generation: int


class JoinBeside(Message, frozen=True):
    """Make a link between two children of the node, without the relay."""

    process: str
    peer: str
    generation: int


class PartChild(Message, frozen=True):
    """The peer of a child is gone: drop the link, as with `LinkDown`."""

    process: str
    peer: str
    generation: int
    reason: str


class Beat(Message, frozen=True):
    """A sign of life, which the outpost sends back."""

    number: int


# -- outpost -> supervisor, in `Carry` -------------------------------------------------------


class Present(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A child that lives; `phase` is the last one that it has reported."""

    process: str
    pid: int
    phase: str


class LivingChildren(Message, frozen=True):
    """The answer to `ResetLinks`: the children that live.

    Attributes:
        outpost: a name that no other start of an outpost has.
        lines: number of log lines so far.
    """

    outpost: str
    pid: int
    children: list[Present]
    lines: int = 0


class ChildTold(Message, frozen=True):
    """What a child has reported (`ToSupervisor`)."""

    process: str
    payload: bytes


class ChildWrote(Message, frozen=True):
    """A line of a child's log, or of the outpost itself if `process` is empty.

    Attributes:
        number: one more than that of the line before, so that lost ones are noticed.
    """

    process: str
    level: str
    text: str
    access: bool = False
    number: int = 0


class ChildGone(Message, frozen=True):
    """A child has ended.

    Attributes:
        exit_code: negative after a signal; None if nobody saw it.
        failure: class of errors.py and message, if it has named the reason.
        stalled: why it was killed for giving no sign of life; else empty.
        last_words: its last log lines that may explain the end.
    """

    process: str
    exit_code: int | None
    failure: tuple[str, str] | None = None
    stalled: str = ""
    last_words: list[str] = []  # noqa: RUF012 - msgspec copies it


# -- supervisor -> the process that speaks with Ray, over the control socket ------------------


class PlaceOutpost(Message, frozen=True):
    """Start an outpost on this node; sent again after `OutpostEnded`.

    Attributes:
        node: position of the node in the plan.
        machine: the node.
        post: pickled `supervisor.post.Post`.
    """

    node: int
    machine: Node
    post: bytes


# -- the process that speaks with Ray -> supervisor -------------------------------------------


HEAD_UNHEARD = "the head was not heard"
"""How the reason begins if an outpost has ended because it lost touch with the head."""


class OutpostEnded(Message, frozen=True):
    """An outpost has ended or could not be started; it is started again if that is possible.

    Attributes:
        reason: why; see also `HEAD_UNHEARD`.
        error: class of errors.py if another start would not help; else empty.
    """

    node: int
    reason: str
    error: str = ""


class NodesOffered(Message, frozen=True):
    """Nodes that live and have no outpost; sent at each change."""

    nodes: list[Node]


FromSupervisor = (
    ResetLinks | StartChild | SignalChild | TellChild | JoinChild | JoinBeside | PartChild | Beat
)
FromOutpost = LivingChildren | ChildTold | ChildWrote | ChildGone | Beat
