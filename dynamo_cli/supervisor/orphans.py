"""What the first process of a container owes to all others: it waits for those that nobody else
waits for. A process whose parent has ended becomes its child, and is a zombie until then.
"""

from __future__ import annotations

import os
import signal
from asyncio import AbstractEventLoop
from collections.abc import Callable, Container

FIRST_PID = 1
GRACE_S = 0.5
"""Until whoever waits for a child of its own has done so."""


def adopt(loop: AbstractEventLoop, own: Callable[[], Container[int]]) -> None:
    """Where this is the first process, wait for every child that is none of `own()`."""
    if os.getpid() == FIRST_PID:
        loop.add_signal_handler(
            signal.SIGCHLD, lambda: loop.call_later(GRACE_S, lambda: reap(own()))
        )


def reap(own: Container[int]) -> None:
    """Wait for the children that have ended, up to the first of `own`, whose end others take."""
    while (ended := _first_ended()) and ended not in own:
        os.waitpid(ended, 0)


def _first_ended() -> int:
    """Its pid, without waiting for it; 0 if there is none."""
    try:
        ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:  # there are no children at all
        return 0
    return ended.si_pid if ended else 0
