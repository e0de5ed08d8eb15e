"""The process of `tests.support.preloaded`: imports, and forks servers, drivers and commands.

    python -m tests.support.nursery engines|light PARENT_PID

Its standard input is the socket at which it listens.
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
import sys
import tempfile
import threading
import traceback
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import setproctitle

from dynamo_cli.host import lifeline
from dynamo_cli.host.lifeline import die_with
from tests.support.preloaded import MOST_STREAMS, REQUEST_BYTES

OF_COMMANDS = (
    *("dynamo_cli.cli.app", "dynamo_cli.cli.launch", "dynamo_cli.cli.dry_run"),
    *("dynamo_cli.cli.configure", "dynamo_cli.cli.replay", "dynamo_cli.cli.bench"),
    *("dynamo_cli.frontend.process", "dynamo_cli.watch.schema"),
    *("pydantic", "rich.console", "rich.markdown", "rich.table", "typer.rich_utils"),
)


class Nursery:
    """The loop of the process: forks on request, and tells how each child has ended.

    Every request comes over a connection of its own, which its client keeps for as long as it wants
    the child.
    """

    def __init__(self, listening: socket.socket) -> None:
        self._listening = listening
        self._children: dict[int, tuple[int, socket.socket]] = {}  # by pidfd: pid, who hears of it

    def run(self) -> None:
        """Until it is killed: when those end who started it."""
        while True:
            waiting = select.poll()
            waiting.register(self._listening.fileno(), select.POLLIN)
            owners = {}
            for descriptor, (_, told) in self._children.items():
                waiting.register(descriptor, select.POLLIN)
                waiting.register(told.fileno(), select.POLLIN)
                owners[told.fileno()] = descriptor
            descriptor, _ = waiting.poll()[0]  # numbers of others may be new ones after this one
            if descriptor == self._listening.fileno():
                self._fork(self._listening.accept()[0])
            else:
                self._end(owners.get(descriptor, descriptor))

    def _fork(self, told: socket.socket) -> None:
        """Answer a request."""
        request, streams, _, _ = socket.recv_fds(told, REQUEST_BYTES, MOST_STREAMS)
        if not request:
            told.close()  # who wanted it has ended
            return
        words, folder, environment = json.loads(request)
        ours = os.getpid()
        pid = os.fork()
        if pid == 0:
            told.close()
            self._listening.close()
            for descriptor, (_, other) in self._children.items():
                os.close(descriptor)
                other.close()
            become(ours, words, folder, environment, streams)
        for descriptor in streams:
            os.close(descriptor)
        self._children[os.pidfd_open(pid)] = (pid, told)
        self._tell(told, pid)

    def _end(self, descriptor: int) -> None:
        """A child has ended, or nobody wants it any more."""
        pid, told = self._children.pop(descriptor)
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        os.close(descriptor)
        with told:
            self._tell(told, code)

    @staticmethod
    def _tell(told: socket.socket, number: int) -> None:
        with suppress(OSError):  # its test may have ended
            told.send(f"{number}\n".encode(), socket.MSG_NOSIGNAL)


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
        if "vllm" in sys.modules:
            lifeline.run_reporting = _run_reporting
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


def _run_reporting(command: list[str], read: Any, given: str = "") -> lifeline.Ended[Any]:
    """Instead of `lifeline.run_reporting`: the helper is a fork of this process."""
    words = ["-m", *command[command.index(lifeline.__name__) + 2 :]]
    ours = os.getpid()
    with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as log:
        said.write(given)
        said.seek(0)
        heard, told = os.pipe()
        pid = os.fork()
        if pid == 0:
            become(
                ours, words, str(Path.cwd()), dict(os.environ), [said.fileno(), told, log.fileno()]
            )
        os.close(told)
        try:
            with os.fdopen(heard) as reports:
                found = read(map(json.loads, reports))
        except BaseException:
            os.kill(pid, signal.SIGKILL)
            raise
        finally:
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        log.seek(0)
        return lifeline.Ended(found, code, log.read())


def load_engines() -> None:
    """Import all that an engine and its server need, as the zygote does it."""
    from dynamo_cli.config import EngineConfig
    from dynamo_cli.engines.vllm.options import environment
    from dynamo_cli.supervisor import zygote
    from tests.cluster.nodes import LOOPBACK

    os.environ |= LOOPBACK  # Ray reads them when it is imported, and vLLM imports it
    environment.prepare(EngineConfig("tiny", "tiny", ("tiny",), ("--enforce-eager",), threads=1))
    zygote._load()
    from vllm.v1.executor import multiproc_executor

    # The ranks of an engine too, as on GPUs: for CPUs vLLM would start a fresh Python for each.
    multiproc_executor.get_mp_context = lambda: multiprocessing.get_context("fork")


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


if __name__ == "__main__":
    main()
