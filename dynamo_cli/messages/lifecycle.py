"""How processes start and end: supervisor and children, over their control sockets."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from dynamo_cli.config import AdapterTable, PlacementRule
from dynamo_cli.messages.base import Message
from dynamo_cli.messages.request import MoveReason
from dynamo_cli.topology import Role

STALLED = "stalled"
"""First word of the reason in `LinkDown` if the supervisor ended a process that had stalled."""

NODE_LOST = "node lost"
"""First words of that reason if the node of a process was lost, and it itself may live."""


def move_reason(reason: str) -> MoveReason:
    """Why the requests of a process leave it when a link is down for this reason."""
    if reason.startswith(STALLED):
        return MoveReason.STALLED
    return MoveReason.NODE_LOST if reason.startswith(NODE_LOST) else MoveReason.DIED


# -- the life of a process --------------------------------------------------------------------


class Phase(StrEnum):
    """The phases of a process, in order."""

    STARTING = "starting"
    IMPORTING = "importing"
    LOADING = "loading weights"
    WARMING = "warming up"
    PROBING = "probing"
    READY = "ready"
    DRAINING = "draining"
    BACKOFF = "restarting"
    FAILED = "failed"
    STOPPED = "stopped"


# -- supervisor -> child, over the control socket --------------------------------------------


class LinkUp(Message, frozen=True):
    """There is a new link to `peer`; its file descriptors come with the message.

    The six descriptors are memfd, data eventfd and space eventfd of the ring to the peer, then
    those of the ring from it.
    """

    peer: str
    generation: int


class LinkDown(Message, frozen=True):
    """The peer is gone: deliver what it had written, move or fail what it had, drop the link.

    Attributes:
        reason: how it ended; it begins with `STALLED` if it was ended because it had stalled, and
            with `NODE_LOST` if its node was lost.
    """

    peer: str
    generation: int
    reason: str


class PeerEnded(Message, frozen=True):
    """The process of an engine has ended, after the link to it; only host caches are told.

    For all others it is enough that a link is gone. A host cache lends slots of its memory, which
    an engine goes on using when its link alone is gone: all links of a node may be made anew.
    """

    peer: str


class Drain(Message, frozen=True):
    """Take no new requests and finish those in flight; the frontend answers with `Drained`.

    A second one may end this earlier.
    """

    timeout_s: float


class Stop(Message, frozen=True):
    """End now."""


class Ping(Message, frozen=True):
    """Give a sign of life: the loop that does the child's work answers with `Pong`."""


class SetPhase(Message, frozen=True):
    """The phase that the supervisor has set for a child, which shows it in its process title."""

    phase: Phase


class Retire(Message, frozen=True):
    """To the router and the processors: this worker will be stopped, send it no more requests.

    A processor moves its requests to other workers if that is possible. It answers with `Released`
    when none of them runs on this worker any more.
    """

    worker: int


class Rescaled(Message, frozen=True):
    """To the frontend: the answer to `Rescale`.

    Attributes:
        workers: the target number of workers from now on.
        error: name of a class of errors.py if nothing was changed; else empty.
        message: why nothing was changed; else empty.
    """

    workers: int
    error: str = ""
    message: str = ""


class Fork(Message, frozen=True):
    """To the zygote: fork a child.

    The descriptors of its control socket, of its log pipe and of the sockets that it listens at
    come with the message.

    Attributes:
        config: the pickled arguments of the child's ``main``.
    """

    name: str
    config: bytes


class Probe(Message, frozen=True):
    """To the frontend: send one token through the whole path to this worker."""

    worker: int


class ProcessState(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One row of the process table, which people and /health see.

    Attributes:
        name: the name of the process, such as ``worker 0``.
        phase: a `Phase`.
        reason: why it is in this phase, where that is not obvious.
        since_ns: when the phase began.
        started_ns: when the process was last started.
        restarts: how often it was started again.
        device: where its engine runs, in words for people.
        gpus: names of the GPUs that its engine uses.
        node: name of the node that it runs on, to which `pid` belongs; empty for this machine.
    """

    name: str
    role: Role
    index: int
    phase: str
    reason: str
    pid: int
    since_ns: int
    started_ns: int
    restarts: int
    device: str = ""
    gpus: tuple[str, ...] = ()
    node: str = ""


class ProcessTable(Message, frozen=True):
    """To the frontend: all processes of the tree, sent at each change.

    Attributes:
        serving: whether requests can be answered.
        reason: why they cannot; else empty.
        workers: the target number of workers.
        offered: nodes that have joined the cluster and run nothing yet, with their free GPUs.
    """

    processes: list[ProcessState]
    serving: bool
    reason: str
    workers: int = 0
    offered: dict[str, int] = {}  # noqa: RUF012 - msgspec copies it


class LogLine(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A line of a process's log, or a message of the supervisor.

    Attributes:
        number: sequence number over all processes.
        time_s: when the line was read, seconds since 1970.
        name: name of the process.
        level: level as `logging` names it.
    """

    number: int
    time_s: float
    name: str
    level: str
    text: str


class Logged(Message, frozen=True):
    """To the frontend: new log lines; a new frontend gets the last ones again.

    Attributes:
        dropped: lines that were never sent because too many came at once.
        unwritten: lines of the supervisor's own output that could not be written, because nobody
            read that output or the disk was full.
    """

    lines: list[LogLine]
    dropped: int
    unwritten: int = 0


# -- child -> supervisor, over the control socket --------------------------------------------


class PhaseChange(Message, frozen=True):
    """A child entered a phase. PROBING means that the child believes that it is ready."""

    phase: Phase
    detail: str = ""


class Forked(Message, frozen=True):
    """From a child that the zygote has forked, as its first message: it runs with this pid."""

    pid: int


class Fatal(Message, frozen=True):
    """The child ends because of a named failure; `error` is the name of a class of errors.py."""

    error: str
    message: str


class ProbeResult(Message, frozen=True):
    """From the frontend: how the probe of a worker went; `error` is empty when it answered."""

    worker: int
    error: str


class Rescale(Message, frozen=True):
    """From the frontend: change the number of workers to `count`; answered by `Rescaled`."""

    count: int


class AdaptersChanged(Message, frozen=True):
    """From the frontend: the adapters that were loaded, for the frontend that replaces it."""

    table: AdapterTable


class PlacementChanged(Message, frozen=True):
    """From the frontend: the new bounds of prefills, for it and the workers when they are started
    again."""

    rule: PlacementRule


class Released(Message, frozen=True):
    """From a processor: none of its requests runs on the retired worker any more."""

    worker: int


class Rescued(Message, frozen=True):
    """How many requests of a lost process were moved, and how many failed.

    Every processor sends it once for each lost worker, and the frontend once for each lost
    processor; both numbers are 0 if the sender had no request there.

    Attributes:
        process: name of the process that is lost, such as ``worker 0``.
        moved: requests that go on in another process, or wait for one that can take them.
        failed: requests that could not be moved, and got an error.
    """

    process: str
    moved: int
    failed: int


class Pong(Message, frozen=True):
    """The child's loop runs: the answer to `Ping`."""


class Listening(Message, frozen=True):
    """From the frontend: it listens; the sockets come with the message.

    The supervisor keeps them open and gives them to the frontend that replaces this one.
    Connections that arrive in between wait for the new frontend.
    """


class StillRunning(Message, frozen=True):
    """From the frontend while it drains: so many requests are in flight, and so much time is left.

    It is sent when the drain begins, and then at intervals until `Drained`.
    """

    in_flight: int
    left_s: float


class Drained(Message, frozen=True):
    """From the frontend: no request is in flight, or time was up with `remaining` in flight."""

    remaining: int
