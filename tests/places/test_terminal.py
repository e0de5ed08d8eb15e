"""The dashboard on terminals that are not read, or that send what is no text."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tests.places.small import Tree, tree
from tests.support.server import wait_until


class Terminal:
    """One whose screen is read only while somebody looks."""

    def __init__(self) -> None:
        self.ours, self.theirs = pty.openpty()
        fcntl.ioctl(self.theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
        os.set_blocking(self.ours, False)
        self.seen = b""
        self.looks = True
        self._over = threading.Event()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        while not self._over.is_set():
            if self.looks:
                with suppress(OSError):
                    self.seen += os.read(self.ours, 1 << 16)
            time.sleep(0.02)

    def close(self) -> None:
        self._over.set()
        self._reader.join()
        os.close(self.ours)
        os.close(self.theirs)


@contextmanager
def dashboard() -> Iterator[tuple[Terminal, Tree]]:
    terminal = Terminal()
    ends = dict.fromkeys(("stdin", "stdout", "stderr"), terminal.theirs)
    # A run of tests in several processes sets the size of its own terminal.
    others = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    environment = others | {"TERM": "xterm-256color"}
    try:
        with tree("dashboard", env=environment, **ends) as running:
            running.wait_ready()
            wait_until(lambda: b"workers" in terminal.seen, 30, "the dashboard shows")
            yield terminal, running
    finally:
        terminal.close()


def test_a_frozen_terminal_does_not_stop_the_supervisor() -> None:
    with dashboard() as (terminal, running):
        terminal.looks = False
        for _ in range(30):  # each paints another screen, far more than a terminal holds
            for key in (b"2", b"6", b"?", b"\x1b", b"1"):
                os.write(terminal.ours, key)
                time.sleep(0.02)
        running.kill_and_wait()
        began = time.monotonic()
        assert running.stop() == 0
        assert time.monotonic() - began < 15


def test_a_terminal_that_goes_on_is_painted_again() -> None:
    with dashboard() as (terminal, running):
        terminal.looks = False
        for _ in range(30):
            for key in (b"2", b"6", b"1"):
                os.write(terminal.ours, key)
                time.sleep(0.02)
        terminal.seen = b""
        terminal.looks = True
        wait_until(lambda: b"workers" in terminal.seen, 20, "it is painted")
        assert running.stop() == 0
        assert b"\x1b[?1049l" in terminal.seen, "the terminal is a plain one again"


def test_bytes_that_are_no_text_do_not_end_it() -> None:
    with dashboard() as (terminal, running):
        for data in (b"\x1b[M \xff\xfe", b"\xc3\x28", b"\xff" * 100):
            os.write(terminal.ours, data)
            time.sleep(0.2)  # apart, so that each is read alone; nothing shows that it was
        terminal.seen = b""
        os.write(terminal.ours, b"?")
        wait_until(lambda: b"Ctrl" in terminal.seen or b"quit" in terminal.seen, 20, "keys work")
        assert b"\x1b[?1049l" not in terminal.seen
        assert running.stop() == 0
        assert b"the dashboard" not in terminal.seen
