"""Processes that have imported what tests need, and fork servers, drivers and commands for them.

- `ENGINES` has imported vLLM. That takes 10 s of a core, and is nearly all that a server of the
  tiny model needs to start. A test that is about requests, and not about how a process starts, need
  not pay it again. What it gets is the command as it is, with one difference: the supervisor has
  vLLM's modules in its memory, and forks its first children instead of starting a fresh Python for
  each.
- `LIGHT` has imported what commands and frontends need, which takes half a second. What it forks
  finds nothing of vLLM in its memory, as the command that a user types.

`tests.support.server.Server` and `tests.support.driver` use them, tests of commands, and the stages
of single processes. All workers of a run of pytest use the same ones (`share`).
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

REQUEST_BYTES = 1 << 17
"""Of a request to fork: words and the environment."""

MOST_STREAMS = 16

MOST_WAITING = 64
"""Requests, while it imports."""


class HasFileno(Protocol):
    """A file or a socket."""

    def fileno(self) -> int: ...


class Forked:
    """The handle of a forked process, with those names of `subprocess.Popen` that tests use.

    The process is killed when nobody has its handle any more.
    """

    def __init__(self, told: socket.socket) -> None:
        self._told = told.makefile("r")  # open after the socket is closed
        try:
            pid = self._told.readline()
        except ConnectionResetError:
            pid = ""
        assert pid, "the process that has imported vLLM has ended; its last words are above"
        self.pid = int(pid)
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Its exit code, when it has ended."""
        if self.returncode is None and select.select([self._told], [], [], 0)[0]:
            self.returncode = int(self._told.readline() or -signal.SIGKILL)
            self._told.close()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code.

        Raises:
            subprocess.TimeoutExpired: it still runs after `timeout` seconds.
        """
        if self.returncode is None and not select.select([self._told], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
        code = self.poll()
        assert code is not None
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Preloaded:
    """Such a process, started when it is needed first, and ended with the one that has started it.

    Attributes:
        address: where it listens; empty before it is needed.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._variable = f"DYNAMO_TEST_{name.upper()}"
        self.address = ""

    def fork(
        self,
        words: Sequence[str],
        environment: Mapping[str, str],
        *streams: HasFileno,
        folder: Path | None = None,
    ) -> Forked:
        """Run a script (`words` begin with its path) or a module (with ``-m`` and its name).

        Args:
            environment: all variables of the new process.
            streams: its standard input, output and error. More are inherited, and their numbers are
                further words.
            folder: where it runs; here unless given.
        """
        request = json.dumps([list(words), str(folder or Path.cwd()), dict(environment)]).encode()
        assert len(request) < REQUEST_BYTES
        assert len(streams) <= MOST_STREAMS, "the rest would be dropped without a word"
        self.address = self.address or os.environ.get(self._variable, "")
        if not self.address:
            with self._listen() as listening:
                self._start(listening)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as line:
            line.connect("\0" + self.address)
            socket.send_fds(line, [request], [stream.fileno() for stream in streams])
            return Forked(line)

    def share(self) -> None:
        """Start it when somebody wants it: a process that this one starts later, as xdist does."""
        listening = self._listen()
        os.environ[self._variable] = self.address

        def wait() -> None:
            while True:
                select.select([listening], [], [])
                self._start(listening).wait()

        threading.Thread(target=wait, daemon=True).start()

    def _listen(self) -> socket.socket:
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.address = f"dynamo-test-{self._name}-{os.getpid()}"
        listening.bind("\0" + self.address)  # in no folder
        listening.listen(MOST_WAITING)
        return listening

    def _start(self, listening: socket.socket) -> subprocess.Popen[bytes]:
        """It ends with the thread that calls this."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.nursery", self._name, str(os.getpid())],
            stdin=listening,
            stdout=subprocess.DEVNULL,
        )
        return self._process

    def run(
        self,
        words: Sequence[str],
        environment: Mapping[str, str],
        *,
        given: str = "",
        timeout_s: float = 60.0,
        folder: Path | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """What comes of it: as `subprocess.run` does it, with this text as its input."""
        with ExitStack() as stack:
            streams = [stack.enter_context(tempfile.TemporaryFile("w+")) for _ in range(3)]
            streams[0].write(given)
            streams[0].seek(0)
            running = self.fork(words, environment, *streams, folder=folder)
            try:
                code = running.wait(timeout_s)
            finally:
                running.kill()
            for stream in streams:
                stream.seek(0)
            _, out, err = (stream.read() for stream in streams)
        return subprocess.CompletedProcess(words, code, out, err)


ENGINES, LIGHT = Preloaded("engines"), Preloaded("light")


def share() -> None:
    """Let all workers of xdist use the same two: the importing takes as long as some test files."""
    for one in (ENGINES, LIGHT):
        one.share()
