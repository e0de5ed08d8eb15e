"""System calls that may be refused: they improve something that works without them too.

Sandboxes (gVisor, seccomp profiles, containers without a capability) refuse calls that are harmless
elsewhere. docs/troubleshooting.md lists the calls that are made in this way.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

from dynamo_cli.host import oserrors

logger = logging.getLogger(__name__)

_told: set[str] = set()


@contextmanager
def may_fail(call: str, without: str) -> Iterator[None]:
    """Go on when the system refuses the call inside; warn about it once per process.

    Args:
        call: name of the system call, for the warning.
        without: the consequence of the refusal, for the warning.
    """
    try:
        yield
    except OSError as error:
        if call not in _told:
            _told.add(call)
            why = oserrors.reason(error)
            logger.warning("%s is refused here (%s): %s", call, why, without)


def cores_of_this_process() -> set[int]:
    """The cores that this process may run on; all of them where the system does not tell."""
    with may_fail("sched_getaffinity", "all cores of this machine are counted"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))
