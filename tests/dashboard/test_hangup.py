"""A dashboard ends when its terminal goes away without a signal."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from dynamo_cli.dashboard.hangup import EXIT_CODE
from tests.support.server import (
    COMMAND,
    SMALL,
    Serving,
    alive,
    children_of,
    die_with_the_test,
    free_port,
    wait_until,
)

pytestmark = pytest.mark.engine


class Line:
    """A terminal whose end sends no signal, because it does not control a session."""

    def __init__(self) -> None:
        self._ours, self.theirs = pty.openpty()
        fcntl.ioctl(self.theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.seen = b""
        self._over = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        """Read from the terminal, but not while it is closed: a pending read would keep it open."""
        with suppress(OSError):
            while not self._over.is_set():
                if select.select([self._ours], [], [], 0.1)[0]:
                    self.seen += os.read(self._ours, 1 << 16)

    def hang_up(self) -> None:
        self._over.set()
        self._reader.join()
        os.close(self._ours)


@contextmanager
def on(line: Line, *command: str) -> Iterator[subprocess.Popen[bytes]]:
    ends = line.theirs
    process = subprocess.Popen(
        command,
        stdin=ends,
        stdout=ends,
        stderr=ends,
        start_new_session=True,
        preexec_fn=die_with_the_test,  # noqa: PLW1509 - it only makes a system call
    )
    os.close(ends)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_server_ends_with_the_terminal_of_its_dashboard() -> None:
    line, port = Line(), free_port()
    command = (COMMAND, "--model", "tiny", "--http-port", str(port), *SMALL, "--ui", "dashboard")
    with on(line, *command) as process:
        Serving(port).wait_ready()
        below = children_of(process.pid)
        line.hang_up()
        assert process.wait(20) == EXIT_CODE
        wait_until(lambda: not any(map(alive, below)), 10, "its children are gone")


def test_one_that_is_attached_ends_with_its_terminal() -> None:
    line = Line()
    with on(line, COMMAND, "top", "--url", f"http://127.0.0.1:{free_port()}") as process:
        wait_until(lambda: b"no connection" in line.seen, 30, "it looks for a server")
        line.hang_up()
        assert process.wait(20) == EXIT_CODE
