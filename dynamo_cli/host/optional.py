"""What the system may refuse: it makes things better, and they work without it.

Sandboxes (gVisor, seccomp profiles, containers without a right) refuse calls that are harmless
elsewhere. docs/troubleshooting.md lists the calls that this is used for.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

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


def cores_of_this_process() -> set[int]:
    """Those that it may run on; where nobody says so, all."""
    with may_fail("sched_getaffinity", "all cores of this machine are counted"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))
