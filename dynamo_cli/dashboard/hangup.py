"""Notices that the terminal is gone, for a process that gets no SIGHUP."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading

EXIT_CODE = 128 + signal.SIGHUP


def watch() -> None:
    """End the process at once when its terminal is gone, as SIGHUP would do.

    Textual would otherwise wait for the terminal for ever, even while it exits, and nobody could
    quit any more. Child processes do not outlive this one.
    """
    if sys.stdin is not None and sys.stdin.isatty():
        threading.Thread(target=_wait, args=(sys.stdin.fileno(),), daemon=True).start()


def _wait(terminal: int) -> None:
    poller = select.poll()
    poller.register(terminal, 0)  # poll always reports a hang-up
    if any(event & select.POLLHUP for _, event in poller.poll()):
        os._exit(EXIT_CODE)
