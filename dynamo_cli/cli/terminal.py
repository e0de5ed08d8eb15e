"""The three standard streams: makes them safe to use, and tells whether they are a terminal."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import IO

from dynamo_cli.host import journal
from dynamo_cli.host.outlet import Outlet

DUMB = "dumb"
"""The value of TERM for a terminal without escape sequences."""

STREAMS = {"stdin": "r", "stdout": "w", "stderr": "w"}
"""The streams in the order of their descriptors, with their modes."""


def settle() -> None:
    """Make sure that there are three standard streams that take any text.

    If one was closed (``<&-``), the next file or socket would get its descriptor, and children
    would write their output into it. Characters that an encoding lacks are replaced.
    """
    for descriptor, (name, mode) in enumerate(STREAMS.items()):
        stream = getattr(sys, name)
        if stream is None:
            stream = _nothing(descriptor, mode)
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)
        if mode == "w" and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def leave_lost_folder() -> bool:
    """Change to / if the working directory has been deleted: Python cannot start there.

    Returns:
        whether it has been deleted.
    """
    try:
        Path.cwd()
    except OSError:
        os.chdir("/")
        return True
    return False


def _nothing(descriptor: int, mode: str) -> IO[str]:
    """Open /dev/null; it gets the lowest free descriptor, that of the closed stream."""
    opened = os.open(os.devnull, os.O_RDWR)
    os.set_inheritable(opened, opened == descriptor)
    return os.fdopen(opened, mode, encoding="utf-8")


def say(text: str, level: str = "WARNING") -> None:
    """Write a line to standard error; a slow reader or a full disk neither blocks nor fails it.

    Args:
        level: its priority where systemd's journal reads standard error.
    """
    mark = journal.priority(level) if journal.reads(sys.stderr) else ""
    outlet = Outlet(sys.stderr, lambda _: "")
    outlet.write(f"{mark}{text}\n")
    outlet.close()


def leave_output() -> OSError | None:
    """Flush standard output; returns the error if that fails, and nothing is written later."""
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return error
    return None


def is_interactive() -> bool:
    """Whether there is a terminal for a dashboard, in which this is the foreground job.

    The kernel stops a background job that uses its terminal.
    """
    # Keys are read from standard input; the dashboard is drawn on standard error.
    if not all(stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr)):
        return False
    return _in_front(sys.stdin.fileno()) and os.environ.get("TERM") != DUMB


def _in_front(terminal: int) -> bool:
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return True  # it has no job control, so this cannot be a background job
