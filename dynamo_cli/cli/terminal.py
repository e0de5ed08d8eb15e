"""Whether somebody sits in front of this."""

from __future__ import annotations

import os
import sys

DUMB = "dumb"


def is_interactive() -> bool:
    """A dashboard has a terminal: for its keys and its picture, and it is in front there.

    A job in the background that touches its terminal is stopped by the kernel.
    """
    # Keys come from the first of them, and the picture goes to the last.
    if not all(stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr)):
        return False
    return _in_front(sys.stdin.fileno()) and os.environ.get("TERM") != DUMB


def _in_front(terminal: int) -> bool:
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return True  # it controls no jobs, so that nothing can be in its background
