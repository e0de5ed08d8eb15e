"""How a dashboard ends: its terminal goes away without a signal, somebody quits, nothing starts."""

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
from tests.support.preloaded import ENGINES, Forked
from tests.support.server import (
    COMMAND,
    READY_S,
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
        self.ours, self.theirs = pty.openpty()
        fcntl.ioctl(self.theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.seen = b""
        self._over = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        """Read from the terminal, but not while it is closed: a pending read would keep it open."""
        with suppress(OSError):
            while not self._over.is_set():
                if select.select([self.ours], [], [], 0.1)[0]:
                    self.seen += os.read(self.ours, 1 << 16)

    def wait_for(self, words: bytes, timeout_s: float = READY_S) -> None:
        wait_until(lambda: words in self.seen, timeout_s, f"{words!r} is written")

    def restored(self) -> bool:
        """It echoes, and gives whole lines to who reads."""
        modes = termios.tcgetattr(self.ours)[3]
        return bool(modes & termios.ICANON and modes & termios.ECHO)

    def hang_up(self) -> None:
        self._over.set()
        self._reader.join()
        os.close(self.ours)


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


@contextmanager
def server_on(line: Line, *options: str) -> Iterator[tuple[Forked, Serving]]:
    """One with its dashboard there; `test_terminal` starts one as a user does it."""
    port = free_port()
    words = (COMMAND, "--model", "tiny", "--http-port", str(port), *SMALL, "--ui", "dashboard")
    with os.fdopen(line.theirs, "r+b", buffering=0) as ends:
        process = ENGINES.fork((*words, *options), os.environ, ends, ends, ends)
    try:
        yield process, Serving(port)
    finally:
        process.kill()
        process.wait()


def test_a_server_ends_with_the_terminal_of_its_dashboard() -> None:
    line = Line()
    with server_on(line) as (process, server):
        server.wait_ready()
        below = children_of(process.pid)
        line.hang_up()
        assert process.wait(20) == EXIT_CODE
        wait_until(lambda: not any(map(alive, below)), 10, "its children are gone")


def test_quitting_an_idle_one_ends_it_well() -> None:
    line = Line()
    with server_on(line) as (process, server):
        server.wait_ready()
        line.wait_for(b"serving")
        below = children_of(process.pid)
        os.write(line.ours, b"q")
        assert process.wait(20) == 0
        assert line.restored()
        wait_until(lambda: not any(map(alive, below)), 10, "its children are gone")
    line.hang_up()


def test_a_start_that_fails_says_why_on_a_clean_terminal() -> None:
    line = Line()
    with server_on(line, "--max-model-len", "99999999") as (process, _):
        assert process.wait(READY_S) == 2
        line.wait_for(b"dynamo-llm: error: ", 5)
        assert line.restored()
    line.hang_up()
    _, leaves, plain = line.seen.rpartition(b"\x1b[?1049l")
    assert leaves, "the dashboard had the screen, and has given it back"
    assert b"dynamo-llm: error: " in plain
    assert b"Traceback" not in plain


def test_one_that_is_attached_ends_with_its_terminal() -> None:
    line = Line()
    with on(line, COMMAND, "top", "--url", f"http://127.0.0.1:{free_port()}") as process:
        wait_until(lambda: b"no connection" in line.seen, 30, "it looks for a server")
        line.hang_up()
        assert process.wait(20) == EXIT_CODE
