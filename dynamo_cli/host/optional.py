"""What the system may refuse: it makes things better, and they work without it.

Sandboxes (gVisor, seccomp profiles, containers without a right) refuse calls that are harmless
elsewhere. docs/troubleshooting.md lists the calls that this is used for.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

PR_SET_PDEATHSIG = 1

logger = logging.getLogger(__name__)

_told: set[str] = set()


@contextmanager
def may_fail(call: str, without: str) -> Iterator[None]:
    """Go on where the system refuses what is done inside; say so once per process.

    Args:
        call: what is asked of the system.
        without: what is so when it is refused.
    """
    try:
        yield
    except OSError as error:
        if call not in _told:
            _told.add(call)
            why = (error.strerror or str(error)).lower()
            logger.warning("%s is refused here (%s): %s", call, why, without)


def die_with_parent(number: signal.Signals) -> None:
    """Have the kernel send `number` to this process when its parent ends."""
    libc = ctypes.CDLL(None, use_errno=True)
    with may_fail("prctl(PR_SET_PDEATHSIG)", "this process may outlive a parent that is killed"):
        if libc.prctl(PR_SET_PDEATHSIG, number) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))


def cores_of_this_process() -> set[int]:
    """Those that it may run on; where nobody says so, all."""
    with may_fail("sched_getaffinity", "all cores of this machine are counted"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))
