"""Shared parts of the tests of links: real rings, links and processes."""

from __future__ import annotations

import os
import socket
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from dynamo_cli.ipc.control import Control
from dynamo_cli.ipc.link import Link, RingFds, create_ring
from dynamo_cli.ipc.ring import Ring
from dynamo_cli.ipc.switchboard import Switchboard
from dynamo_cli.topology import LinkSpec, ProcessId, Role
from dynamo_cli.units import KIB

HERE = ProcessId(Role.PROCESSOR, 0)
THERE = ProcessId(Role.WORKER, 0)

Ends = tuple[Control, Control]
"""The supervisor's end of a control socket and the child's."""


def spec(a_to_b_bytes: int = 64 * KIB, b_to_a_bytes: int = 64 * KIB) -> LinkSpec:
    return LinkSpec(HERE.role, THERE.role, a_to_b_bytes, b_to_a_bytes, "test")


@contextmanager
def ring(capacity_bytes: int) -> Iterator[tuple[Ring, Ring, RingFds]]:
    """The writer's end, the reader's end, and their descriptors."""
    fds = create_ring(capacity_bytes, "test")
    writer, reader = Ring(*fds), Ring(*fds)
    try:
        yield writer, reader, fds
    finally:
        writer.close()
        reader.close()
        fds.close()


def copies(fds: RingFds) -> RingFds:
    return RingFds(*(os.dup(descriptor) for descriptor in fds))


@contextmanager
def links(capacity_bytes: int) -> Iterator[tuple[Link, Link]]:
    """Both ends of a link, in one process."""
    there, back = create_ring(capacity_bytes, "there"), create_ring(capacity_bytes, "back")
    a = Link(THERE, 1, tx=copies(there), rx=copies(back))
    b = Link(HERE, 1, tx=back, rx=there)
    try:
        yield a, b
    finally:
        a.close()
        b.close()


def fired(eventfd: int) -> bool:
    """Whether an eventfd has fired; it is reset."""
    with suppress(BlockingIOError):
        return os.eventfd_read(eventfd) > 0
    return False


def open_descriptors() -> list[str]:
    return sorted(os.listdir("/proc/self/fd"))  # noqa: PTH208  # names, not paths


class Recorder:
    """A handler that keeps all events in order."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []

    def on_message(self, peer: ProcessId, payload: bytes) -> None:
        self.events.append(("message", peer, payload))

    def on_link(self, peer: ProcessId) -> None:
        self.events.append(("link", peer))

    def on_unlink(self, peer: ProcessId, reason: str) -> None:
        self.events.append(("unlink", peer, reason))

    def on_control(self, message: Any) -> None:
        self.events.append(("control", message))

    def payloads(self) -> list[bytes]:
        return [event[2] for event in self.events if event[0] == "message"]


def fork(main: Callable[[], None]) -> int:
    """Run `main` in a forked child, which exits after it.

    The exit code is 0, or 70 after an exception, which is printed.
    """
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        main()
        code = 0
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        os._exit(code)


def exit_code(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


class Party:
    """The supervisor's side of one process: its control socket."""

    def __init__(self, process: ProcessId) -> None:
        self.process = process
        self.control, self.theirs = Control.pair()

    def fork(self, main: Callable[[socket.socket], None], *others: Party) -> int:
        """Fork a child that has only its own end of the control socket.

        Args:
            main: run in the child with the control socket.
            others: parties whose sockets the child inherits and must close.
        """

        def alone() -> None:
            for party in (self, *others):
                party.control.close()
            for party in others:
                party.theirs.close()
            main(self.theirs)

        pid = fork(alone)
        self.theirs.close()
        return pid

    def board(self) -> tuple[Switchboard, Recorder]:
        """A switchboard at the child's end, in this process."""
        recorder = Recorder()
        return Switchboard(self.theirs, recorder), recorder

    def close(self) -> None:
        self.control.close()
        self.theirs.close()
