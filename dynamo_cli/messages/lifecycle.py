"""Processes that come and go: supervisor and children, over the control sockets."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from dynamo_cli.config import AdapterTable
from dynamo_cli.messages.base import Message
from dynamo_cli.topology import Role

# -- the life of a process --------------------------------------------------------------------


class Phase(StrEnum):
    """Where a process is in its life, in order."""

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
    """A link to `peer`; its descriptors come with the message.

    The six descriptors are memfd, data eventfd and space eventfd of the ring to the peer, then
    the same of the ring from it.
    """

    peer: str
    generation: int


class LinkDown(Message, frozen=True):
    """The peer is gone: deliver what it had committed, fail what was pending, drop the link."""

    peer: str
    generation: int
    reason: str


class Drain(Message, frozen=True):
    """Take no new requests, finish those that run; the frontend answers with `Drained`."""

    timeout_s: float


class Stop(Message, frozen=True):
    """End now."""


class SetPhase(Message, frozen=True):
    """The supervisor's verdict on a child that said it can serve; shown in the child's title."""

    phase: Phase


class Retire(Message, frozen=True):
    """To the router and the processors: this worker is to end, send no more requests to it.

    A processor answers with `Released` when nothing of it runs there any more.
    """

    worker: int


class Rescaled(Message, frozen=True):
    """To the frontend: the answer to `Rescale`.

    Attributes:
        workers: that there are to be now.
        error: a class of errors.py when nothing was changed, and `message` why; else empty.
    """

    workers: int
    error: str = ""
    message: str = ""


class Fork(Message, frozen=True):
    """To the zygote: fork a child; its control socket and log pipe come with the message.

    Attributes:
        config: the pickled arguments of the child's ``main``.
    """

    name: str
    config: bytes


class Probe(Message, frozen=True):
    """To the frontend: send one token through the whole path to this worker."""

    worker: int


class ProcessState(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One row of the process table, as people and /health see it.

    Attributes:
        name: ``worker 0``.
        phase: a `Phase`.
        reason: why it is in this phase, when that is not obvious.
        since_ns: when the phase began.
        started_ns: when this life of the process began.
        restarts: how often it was started again.
        device: where its engine runs, for people.
        gpus: names of the GPUs that it has.
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


class ProcessTable(Message, frozen=True):
    """To the frontend: every process of the tree, sent at each change.

    Attributes:
        workers: that there are to be.
    """

    processes: list[ProcessState]
    serving: bool
    reason: str
    workers: int = 0


class LogLine(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A line of a process's log, or something that the supervisor says.

    Attributes:
        number: grows by one over all processes.
        time_s: when it came, seconds since 1970.
        name: of the process.
        level: as `logging` names it.
    """

    number: int
    time_s: float
    name: str
    level: str
    text: str


class Logged(Message, frozen=True):
    """To the frontend: what was logged; a new frontend gets the last lines again.

    Attributes:
        dropped: lines that were never sent because too many came at once.
        unwritten: lines of the supervisor's own output that nobody read or that no disk took.
    """

    lines: list[LogLine]
    dropped: int
    unwritten: int = 0


# -- child -> supervisor, over the control socket --------------------------------------------


class PhaseChange(Message, frozen=True):
    """Where a child is in its life. PROBING means: it can serve, as far as it knows."""

    phase: Phase
    detail: str = ""


class Forked(Message, frozen=True):
    """From the zygote: the child runs."""

    name: str
    pid: int


class Exited(Message, frozen=True):
    """From the zygote: a child that it forked ended.

    Attributes:
        exit_code: as multiprocessing has it: negative is the number of a signal.
    """

    pid: int
    exit_code: int


class Fatal(Message, frozen=True):
    """The child ends because of a named failure; `error` is a class of errors.py."""

    error: str
    message: str


class ProbeResult(Message, frozen=True):
    """From the frontend: how the probe of a worker went; `error` is empty when it answered."""

    worker: int
    error: str


class Rescale(Message, frozen=True):
    """From the frontend: let there be so many workers; answered by `Rescaled`."""

    count: int


class AdaptersChanged(Message, frozen=True):
    """From the frontend: what its next life has to know."""

    table: AdapterTable


class Released(Message, frozen=True):
    """From a processor: it has nothing running on a worker that is to end."""

    worker: int


class Drained(Message, frozen=True):
    """From the frontend: nothing is running any more, or time was up with `remaining` left."""

    remaining: int
