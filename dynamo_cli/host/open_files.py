"""The limit of open files, which bounds the number of links and of connections."""

from __future__ import annotations

import logging
import resource

WANTED = 65_535

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
