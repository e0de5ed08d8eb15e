"""How many files this process may have open: each connection is one."""

from __future__ import annotations

import logging
import resource
from pathlib import Path

WANTED = 65_535
RESERVED = 128
"""For links to processes that are started again, files of /proc, and who is being turned away."""

logger = logging.getLogger(__name__)


def raise_limit() -> None:
    """As many as may be, as vLLM's server does; a shell's 1,024 are soon used up."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED if hard == resource.RLIM_INFINITY else min(WANTED, hard)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError) as error:
        logger.warning("the limit of open files (ulimit -n) stays at %d: %s", soft, error)


def connections() -> int:
    """That fit in beside what is open now; 0: no limit."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return 0
    return max(1, soft - len([*Path("/proc/self/fd").iterdir()]) - RESERVED)
