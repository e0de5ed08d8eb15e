"""Reaps orphans where the supervisor is the first process of a container.

A process whose parent has ended becomes a child of the first process, and stays a zombie until that
one waits for it.
"""

from __future__ import annotations

import os
import signal
from asyncio import AbstractEventLoop
from collections.abc import Callable, Container

FIRST_PID = 1
GRACE_S = 0.5
"""How long other code of this process has to wait for a child of its own."""


def adopt(loop: AbstractEventLoop, own: Callable[[], Container[int]]) -> None:
    """If this is the first process, reap every child that is not among `own()`."""
    if os.getpid() == FIRST_PID:
        loop.add_signal_handler(
            signal.SIGCHLD, lambda: loop.call_later(GRACE_S, lambda: reap(own()))
        )


def reap(own: Container[int]) -> None:
    """Reap children that have ended, up to the first of `own`: others wait for that one."""
    while (ended := _first_ended()) and ended not in own:
        os.waitpid(ended, 0)


def _first_ended() -> int:
    """The pid of a child that has ended, which is not reaped yet; 0 if there is none."""
    try:
        ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:  # there are no children at all
        return 0
    return ended.si_pid if ended else 0
