"""The three standard streams: whether somebody sits in front of them, and what they take."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import IO

from dynamo_cli.host.outlet import Outlet

DUMB = "dumb"
STREAMS = {"stdin": "r", "stdout": "w", "stderr": "w"}
"""By descriptor, with their modes."""


def settle() -> None:
    """Whatever this was started with, there are three streams, and they take any text.

    Where one was closed (``<&-``), the next file or socket would get its descriptor, and children
    would write their output into it. What an encoding lacks is replaced.
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
    """Go to / when the working directory is gone: nothing can start a Python process there.

    Returns:
        whether that was so.
    """
    try:
        Path.cwd()
    except OSError:
        os.chdir("/")
        return True
    return False


def _nothing(descriptor: int, mode: str) -> IO[str]:
    """/dev/null, at this descriptor if that is still free: the lowest free one is taken first."""
    opened = os.open(os.devnull, os.O_RDWR)
    os.set_inheritable(opened, opened == descriptor)
    return os.fdopen(opened, mode, encoding="utf-8")


def say(text: str) -> None:
    """A line on standard error; who does not read it, and a full disk, hold up nothing."""
    outlet = Outlet(sys.stderr, lambda _: "")
    outlet.write(text + "\n")
    outlet.close()


def leave_output() -> OSError | None:
    """Write what standard output holds back; else why not, and the interpreter will not try."""
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return error
    return None


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
