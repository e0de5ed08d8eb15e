"""The processes below the supervisor that end: its children, and orphans that it adopts.

A process whose parent has ended becomes a child of the supervisor, and stays a zombie until that
one waits for it. So do engines and processors, whose parent ends as soon as it has forked them, and
what others leave behind: ranks of an engine that was killed, and in a container everything.
"""

from __future__ import annotations

import os
import signal
from asyncio import AbstractEventLoop
from collections.abc import Callable, Container, Iterable
from typing import Protocol

from dynamo_cli.host import lifeline

GRACE_S = 0.5
"""How long other code of this process has to wait for a child of its own."""

LOOK = os.WEXITED | os.WNOHANG | os.WNOWAIT
"""For `os.waitid`: neither wait nor reap."""


class Mortal(Protocol):
    """A child of the supervisor."""

    pid: int

    def poll(self) -> None:
        """Act on its exit, if it has ended."""


class Orphans:
    """Sees children end, and reaps orphans.

    Args:
        children: gives the children that have not ended, as far as it is known.

    Attributes:
        adopted: whether orphans become children of this process.
    """

    def __init__(self, children: Callable[[], Iterable[Mortal]]) -> None:
        self._children = children
        self.adopted = False

    def adopt(self, loop: AbstractEventLoop) -> None:
        """Begin, before the first child is started."""
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
        if 0 in own:  # it may be one that has not told its pid yet
            self._loop.call_later(GRACE_S, self._reap)
        else:
            reap(own)


def reap(own: Container[int]) -> None:
    """Reap children that have ended, up to the first of `own`: others wait for that one."""
    while (ended := _first_ended()) and ended not in own:
        os.waitpid(ended, 0)


def _first_ended() -> int:
    """The pid of a child that has ended, which is not reaped yet; 0 if there is none."""
    try:
        ended = os.waitid(os.P_ALL, 0, LOOK)
    except ChildProcessError:  # there are no children at all
        return 0
    return ended.si_pid if ended else 0


def is_child(pid: int) -> bool:
    """Whether `pid` is a child of this process, which is not reaped yet; 0 is none."""
    if not pid:
        return False
    try:
        os.waitid(os.P_PID, pid, LOOK)
    except ChildProcessError:
        return False
    return True


def exit_code_of(pid: int) -> int | None:
    """Reap a child if it has ended: its exit code, negative after a signal; None if it runs.

    Raises:
        ChildProcessError: it is not a child of this process.
    """
    ended, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if ended else None
