"""Notices that processes below the supervisor have ended, and reaps them.

A process whose parent has ended becomes a child of the supervisor (the supervisor adopts it), and
when it ends it stays a zombie until the supervisor waits for it. These are engines and processors,
whose parent ends as soon as it has forked them, and orphans: ranks of an engine that was killed,
and in a container any process whose parent has ended.
"""

from __future__ import annotations

import os
import signal
from asyncio import AbstractEventLoop
from collections.abc import Callable, Container, Iterable
from typing import Protocol

from dynamo_cli.host import lifeline

GRACE_S = 0.5
"""Seconds before orphans are reaped, in which other code of this process can wait for a child that
it has started itself."""

LOOK = os.WEXITED | os.WNOHANG | os.WNOWAIT
"""Options of `os.waitid` to look for an ended child without waiting for it or reaping it."""


class Mortal(Protocol):
    """A child of the supervisor."""

    pid: int

    def poll(self) -> None:
        """Act on its exit, if it has ended."""


class Orphans:
    """Polls the children when one of them may have ended, and reaps orphans.

    Args:
        children: returns the children whose exit has not been seen yet.

    Attributes:
        adopted: whether processes whose parent ends become children of this process.
    """

    def __init__(self, children: Callable[[], Iterable[Mortal]]) -> None:
        self._children = children
        self.adopted = False

    def adopt(self, loop: AbstractEventLoop) -> None:
        """Begin to adopt processes and to watch for exits; call it before the first start."""
        self.adopted = lifeline.adopt()
        self._loop = loop
        loop.add_signal_handler(signal.SIGCHLD, self._on_signal)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})

    def _on_signal(self) -> None:
        for child in list(self._children()):
            child.poll()
        self._loop.call_later(GRACE_S, self._reap)

    def _reap(self) -> None:
        own = {child.pid for child in self._children()}
        if 0 in own:  # a child has not reported its pid yet, so an ended process may be that child
            self._loop.call_later(GRACE_S, self._reap)
        else:
            reap(own)


def reap(own: Container[int]) -> None:
    """Reap ended children, up to the first pid in `own`: the `poll` of that child reaps it."""
    while (ended := _first_ended()) and ended not in own:
        os.waitpid(ended, 0)


def _first_ended() -> int:
    """Return the pid of a child that has ended but is not reaped yet; 0 if there is none."""
    try:
        ended = os.waitid(os.P_ALL, 0, LOOK)
    except ChildProcessError:  # there are no children at all
        return 0
    return ended.si_pid if ended else 0


def is_child(pid: int) -> bool:
    """Whether `pid` is a child of this process that is not reaped yet; False for 0."""
    if not pid:
        return False
    try:
        os.waitid(os.P_PID, pid, LOOK)
    except ChildProcessError:
        return False
    return True


def exit_code_of(pid: int) -> int | None:
    """Reap a child if it has ended, and return its exit code, negative after a signal.

    Returns:
        None if the child still runs.

    Raises:
        ChildProcessError: it is not a child of this process.
    """
    ended, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if ended else None
