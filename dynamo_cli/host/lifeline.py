"""Processes that end when their parent ends, however that comes about.

``python -m dynamo_cli.host.lifeline PARENT_PID MODULE ...`` runs another module as such a process.
"""

from __future__ import annotations

import ctypes
import json
import multiprocessing.spawn
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from dynamo_cli.host.optional import may_fail

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36

ADOPTION_S = 10.0
"""How long `wait_for_adoption` waits for the exit of the parent, seconds."""

# -P keeps the current directory, and whatever modules lie there, off the import path.
PYTHON = (sys.executable, "-P")

Found = TypeVar("Found")


def die_with(parent_pid: int, sent: signal.Signals = signal.SIGKILL) -> None:
    """Have the kernel send `sent` to this process when its parent ends.

    More exactly, the kernel sends it when that thread of the parent ends which has started this
    process. For a process that was adopted, this is the main thread of the new parent.

    Args:
        parent_pid: the parent; if it has ended already, this process ends at once.
    """
    with may_fail("prctl(PR_SET_PDEATHSIG)", "this process may outlive a parent that is killed"):
        _prctl(PR_SET_PDEATHSIG, sent)
    if os.getppid() != parent_pid:  # it ended before the call above
        os._exit(1)


def bind_spawned() -> None:
    """Have all that multiprocessing spawns from now on end with this process.

    The kernel is asked for that by the first line that a spawned process runs, long before it has
    imported what its target needs.
    """
    plain = multiprocessing.spawn.get_command_line

    def bound(**options: Any) -> list[str]:
        *interpreter, program, mark = plain(**options)
        first = f"from {__name__} import die_with; die_with({os.getpid()})"
        return [*interpreter, f"{first}; {program}", mark]

    multiprocessing.spawn.get_command_line = bound


def adopt() -> bool:
    """Have this process become the parent of each process below it whose own parent has ended.

    Returns:
        whether the system allows it.
    """
    without = (
        "it is not known how engines and processors died, and they may outlive a killed parent"
    )
    with may_fail("prctl(PR_SET_CHILD_SUBREAPER)", without):
        _prctl(PR_SET_CHILD_SUBREAPER, 1)
        return True
    return False


def wait_for_adoption(from_pid: int) -> None:
    """Wait until `from_pid`, which is about to exit, is not the parent of this process any more.

    The kernel tells nobody when that has happened. It takes microseconds on an idle core.
    """
    deadline = time.monotonic() + ADOPTION_S
    while os.getppid() == from_pid and time.monotonic() < deadline:
        time.sleep(0.0005)


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def command_of(module: str, *args: str) -> list[str]:
    """The command line that runs `module` as a process which ends with this one."""
    return [*PYTHON, "-m", "dynamo_cli.host.lifeline", str(os.getpid()), module, *args]


@dataclass(frozen=True, slots=True)
class Ended(Generic[Found]):
    """A helper process that has ended.

    Attributes:
        found: its result; None when it ended without one.
        exit_code: negative after a signal, as in `subprocess`.
        log: what it wrote to standard error.
    """

    found: Found | None
    exit_code: int
    log: str


def run_reporting(
    command: Sequence[str], read: Callable[[Iterable[Any]], Found | None], given: str = ""
) -> Ended[Found]:
    """Run a process that reports on standard output, one JSON value per line.

    Args:
        read: consumes the values as they come and returns the result. If it raises, the process
            is ended.
        given: text for its standard input.
    """
    with (
        tempfile.TemporaryFile("w+") as log,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
        ) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            with suppress(BrokenPipeError), process.stdin:  # its log says why it did not read
                process.stdin.write(given)
            found = read(map(json.loads, process.stdout))
            exit_code = process.wait()
        finally:
            _end(process)
        log.seek(0)
        return Ended(found, exit_code, log.read())


def _end(process: subprocess.Popen[str], patience_s: float = 5.0) -> None:
    """End `process` if it still runs: ask first, and kill it after `patience_s`."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(patience_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


if __name__ == "__main__":
    die_with(int(sys.argv[1]))
    module = sys.argv[2]
    sys.argv = sys.argv[2:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
