"""The limit of open files, which bounds the number of connections."""

from __future__ import annotations

import logging
import resource
from pathlib import Path

WANTED = 65_535
RESERVED = 128
"""Descriptors kept free for links to restarted processes, files in /proc and refused clients."""

logger = logging.getLogger(__name__)


def raise_limit() -> None:
    """Raise the soft limit as far as the hard limit allows; the usual 1,024 are soon used up."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED if hard == resource.RLIM_INFINITY else min(WANTED, hard)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError) as error:
        logger.warning("cannot raise the limit of open files (ulimit -n) above %d: %s", soft, error)


def connections() -> int:
    """How many connections fit beside what is open now; 0 is no limit."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return 0
    return max(1, soft - len([*Path("/proc/self/fd").iterdir()]) - RESERVED)
