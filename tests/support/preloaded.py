"""Processes that have imported what tests need, and fork servers, drivers and commands for them.

- `ENGINES` has imported vLLM. That takes 10 s of a core, and is nearly all that a server of the
  tiny model needs to start. A test that is about requests, and not about how a process starts, need
  not pay it again. What it gets is the command as it is, with one difference: the supervisor has
  vLLM's modules in its memory, and forks its first children instead of starting a fresh Python for
  each.
- `LIGHT` has imported what commands and frontends need, which takes half a second. What it forks
  finds nothing of vLLM in its memory, as the command that a user types.

`tests.support.server.Server` and `tests.support.driver` use them, tests of commands, and the stages
of single processes.
"""

from __future__ import annotations

import asyncio
import atexit
import gc
import importlib
import json
import multiprocessing
import os
import runpy
import select
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn, Protocol

import setproctitle

from dynamo_cli.host.lifeline import die_with

REQUEST_BYTES = 1 << 17
"""Of a request to fork: words and the environment."""

MOST_STREAMS = 16

OF_COMMANDS = (
    *("dynamo_cli.cli.app", "dynamo_cli.cli.launch", "dynamo_cli.cli.dry_run"),
    *("dynamo_cli.cli.configure", "dynamo_cli.cli.replay", "dynamo_cli.cli.bench"),
    *("dynamo_cli.frontend.process", "dynamo_cli.watch.schema"),
    *("pydantic", "rich.console", "rich.markdown", "rich.table", "typer.rich_utils"),
)


class HasFileno(Protocol):
    """A file or a socket."""

    def fileno(self) -> int: ...


class Forked:
    """The handle of a forked process, with those names of `subprocess.Popen` that tests use."""

    def __init__(self, told: socket.socket) -> None:
        self._told = told.makefile("r")
        told.close()
        pid = self._told.readline()
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
    """Such a process, started when it is needed first, and ended with this one."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket

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
        if self._process is None or self._process.poll() is not None:
            self._start()
        ours, theirs = socket.socketpair()
        request = json.dumps([list(words), str(folder or Path.cwd()), dict(environment)]).encode()
        assert len(request) < REQUEST_BYTES
        assert len(streams) < MOST_STREAMS, "the rest would be dropped without a word"
        with theirs:
            socket.send_fds(
                self._socket, [request], [theirs.fileno(), *(stream.fileno() for stream in streams)]
            )
        return Forked(ours)

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

    def _start(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, self._name, str(os.getpid())],
                stdin=theirs,
                stdout=subprocess.DEVNULL,
            )
        atexit.register(self._end, self._process, self._socket)

    @staticmethod
    def _end(process: subprocess.Popen[bytes], control: socket.socket) -> None:
        control.close()
        process.wait()


ENGINES, LIGHT = Preloaded("engines"), Preloaded("light")


# -- in the process itself -------------------------------------------------------------------


class Nursery:
    """The loop of the process: forks on request, and tells how each child has ended."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._children: dict[int, tuple[int, socket.socket]] = {}  # by pidfd: pid, who hears of it

    def run(self) -> None:
        """Until the tests have ended."""
        while True:
            waiting = select.poll()
            for descriptor in (self._control.fileno(), *self._children):
                waiting.register(descriptor, select.POLLIN)
            for descriptor, _ in waiting.poll():
                if descriptor != self._control.fileno():
                    self._reap(descriptor)
                elif not self._fork():
                    return

    def _fork(self) -> bool:
        """Answer a request; False when nobody will ask again."""
        request, descriptors, _, _ = socket.recv_fds(self._control, REQUEST_BYTES, MOST_STREAMS)
        if not request:
            return False
        words, folder, environment = json.loads(request)
        told, *streams = socket.socket(fileno=descriptors[0]), *descriptors[1:]
        ours = os.getpid()
        pid = os.fork()
        if pid == 0:
            told.close()
            self._control.close()
            for descriptor, (_, other) in self._children.items():
                os.close(descriptor)
                other.close()
            become(ours, words, folder, environment, streams)
        for descriptor in streams:
            os.close(descriptor)
        told.send(f"{pid}\n".encode())
        self._children[os.pidfd_open(pid)] = (pid, told)
        return True

    def _reap(self, descriptor: int) -> None:
        pid, told = self._children.pop(descriptor)
        os.close(descriptor)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        with told, suppress(OSError):  # its test may have ended
            told.send(f"{code}\n".encode(), socket.MSG_NOSIGNAL)


def become(
    parent_pid: int, words: list[str], folder: str, environment: dict[str, str], streams: list[int]
) -> NoReturn:
    """In a fork: the command that `words` are, as if a fresh Python ran it."""
    code = 1
    try:
        die_with(parent_pid)
        os.setsid()
        for number, descriptor in enumerate(streams[:3]):
            os.dup2(descriptor, number)
            os.close(descriptor)
        words += map(str, streams[3:])
        _open_streams()
        setproctitle.setproctitle(shlex.join(words))
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        tempfile.tempdir = None
        atexit._clear()
        atexit.register(multiprocessing.util._exit_function)
        multiprocessing.get_context = _context(open_descriptors())
        code = _run(words)
    except BaseException:  # noqa: BLE001 - a process begins here
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)


def _open_streams() -> None:
    """Those that Python opened were of another kind: a terminal has no place to seek to."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        mode = "w" if number else "r"
        stream = open(number, mode, buffering=1, closefd=False)  # noqa: SIM115 - for good
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def _run(words: list[str]) -> int:
    """The exit code of a script or module."""
    try:
        if words[0] == "-m":
            sys.argv = words[1:]
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = words
            runpy.run_path(words[0], run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    threading._shutdown()
    atexit._run_exitfuncs()
    return code


def open_descriptors() -> set[int]:
    found = list(Path("/proc/self/fd").iterdir())
    return {int(path.name) for path in found if os.path.lexists(path)}  # not that of the list


def _context(known: set[int]) -> Any:
    """Instead of `multiprocessing.get_context`: what would be spawned is forked."""
    real = multiprocessing.get_context

    def process(target: Any, args: Any) -> BaseProcess:
        birth, *sockets = args
        sockets += birth.sockets
        others = open_descriptors() - known - {one.fileno() for one in sockets}
        return real("fork").Process(target=_as_if_spawned, args=(target, args, others, real))

    return lambda method=None: (
        SimpleNamespace(Process=process) if method == "spawn" else real(method)
    )


def _as_if_spawned(target: Any, args: Any, others: set[int], real: Any) -> None:
    """In a fork of the supervisor: let go of all that a fresh process would not have."""
    gc.freeze()  # what the supervisor had must not be closed once more, by its number
    signal.set_wakeup_fd(-1)
    asyncio._set_running_loop(None)
    asyncio.set_event_loop(None)
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    for descriptor in others:
        os.close(descriptor)
    multiprocessing.get_context = real
    target(*args)


def load_engines() -> None:
    """Import all that an engine and its server need, as the zygote does it."""
    from dynamo_cli.config import EngineConfig
    from dynamo_cli.engines.vllm.options import environment
    from dynamo_cli.supervisor import zygote

    environment.prepare(EngineConfig("tiny", "tiny", ("tiny",), ("--enforce-eager",), threads=1))
    zygote._load()


def load_light() -> None:
    """Import what most commands and a frontend need."""
    for name in OF_COMMANDS:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()


def main() -> None:
    """Import, and serve."""
    die_with(int(sys.argv[2]))
    {"engines": load_engines, "light": load_light}[sys.argv[1]]()
    setproctitle.getproctitle()  # it finds the place of the title only with this environment
    Nursery(socket.socket(fileno=os.dup(0))).run()
    os._exit(0)  # libraries complain about each other when they are unloaded


if __name__ == "__main__":
    main()
