"""The end of the terminal, for a process that is not told of it."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading

EXIT_CODE = 128 + signal.SIGHUP


def watch() -> None:
    """End the process at once when its terminal is gone, as SIGHUP would where one comes.

    Textual would wait for ever to be read, also on its way out, and nobody could quit any more.
    Children do not outlive their parent.
    """
    if sys.stdin is not None and sys.stdin.isatty():
        threading.Thread(target=_wait, args=(sys.stdin.fileno(),), daemon=True).start()


def _wait(terminal: int) -> None:
    poller = select.poll()
    poller.register(terminal, 0)  # a hang-up is always told
    if any(event & select.POLLHUP for _, event in poller.poll()):
        os._exit(EXIT_CODE)
