"""systemd's journal: whether it reads a stream, and the priorities of its lines."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import TextIO

STREAM_VARIABLE = "JOURNAL_STREAM"
"""systemd sets it to the device and inode of the stream that the journal reads: ``8:1234``."""

PRIORITIES = (
    (logging.CRITICAL, 2),
    (logging.ERROR, 3),
    (logging.WARNING, 4),
    (logging.INFO, 6),
)
"""Levels, highest first, and the priorities of syslog(3) for them; what is lower is debug, 7."""


def reads(stream: TextIO, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether the journal reads what is written to a stream.

    The variable alone does not say so: children inherit it, and their output may go elsewhere.
    """
    told = environment.get(STREAM_VARIABLE)
    if not told:
        return False
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False  # closed, or not a file at all
    return told == f"{found.st_dev}:{found.st_ino}"


def priority(level: str) -> str:
    """The mark at the beginning of a line of this level, such as ``<4>``; see sd-daemon(3)."""
    number = logging.getLevelNamesMapping().get(level, logging.INFO)
    return f"<{next((mark for least, mark in PRIORITIES if number >= least), 7)}>"
