"""The tool as the first process of a container: signals reach it, and it reaps zombies.

A PID namespace is enough for that.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.requests import Stream, complete
from tests.support.server import COMMAND, SMALL, Server, alive, children_of, wait_until

UNSHARE = ("unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc")


def namespaces_work() -> bool:
    try:
        return subprocess.run([*UNSHARE, "true"], check=False, capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


pytestmark = pytest.mark.skipif(
    not namespaces_work(), reason="this machine lets nobody make a PID namespace"
)


def title_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").decode()


def first_of(shell: int) -> int:
    """The pid of the first process outside its namespace. It is not the lowest pid there: the
    system begins with low ones again after the highest."""
    (first,) = Path(f"/proc/{shell}/task/{shell}/children").read_text().split()
    return int(first)


def zombies_below(pid: int) -> list[int]:
    return [child for child in children_of(pid) if not alive(child)]


@contextmanager
def first_process(*command: str) -> Iterator[int]:
    """Run `command` as the first process of a PID namespace; returns its pid outside."""
    shell = subprocess.Popen([*UNSHARE, "--kill-child", *command], stdin=subprocess.DEVNULL)
    try:
        wait_until(lambda: children_of(shell.pid), 10, "it runs")
        yield first_of(shell.pid)
    finally:
        shell.kill()
        shell.wait()


class Contained(Server):
    """A server that is the first process of a PID namespace."""

    command = (*UNSHARE, "--kill-child", COMMAND)

    @property
    def first(self) -> int:
        """The pid of the supervisor outside the namespace."""
        return first_of(self.process.pid)

    def pid_of(self, name: str) -> int:
        title = f"dynamo-llm: {name} "
        (pid,) = [pid for pid in children_of(self.first) if title_of(pid).startswith(title)]
        return pid

    def stop(self) -> int:
        below = children_of(self.process.pid)
        os.kill(self.first, signal.SIGTERM)
        code = self.wait()
        self.assert_nothing_left(below)
        return code


@pytest.mark.engine
def test_it_serves_reaps_and_drains_as_the_first_process() -> None:
    with Contained(*SMALL) as server:
        assert complete(server)[0] == 200
        os.kill(
            server.pid_of("zygote"), signal.SIGKILL
        )  # its children become children of the supervisor
        wait_until(lambda: server.processes()["zygote"]["restarts"] == 1, 20, "it is noticed")
        wait_until(lambda: not zombies_below(server.first), 5, "no zombies")
        with Stream(server, 500) as stream:
            os.kill(server.first, signal.SIGTERM)
            assert stream.rest().endswith(b"data: [DONE]\n\n")
            assert server.wait() == 0


def test_sigterm_ends_it_before_the_tree_is_there() -> None:
    code = (
        "import sys, time; from dynamo_cli.cli import app\n"
        "app.app = lambda *_, **__: time.sleep(60)\n"
        "sys.argv = ['dynamo-llm']\n"
        "app.run()\n"
    )
    with first_process(sys.executable, "-c", code) as pid:
        handled = 1 << (signal.SIGTERM - 1)

        def listens() -> bool:
            status = Path(f"/proc/{pid}/status").read_text()
            (caught,) = [line for line in status.splitlines() if line.startswith("SigCgt:")]
            return bool(int(caught.split()[1], 16) & handled)

        wait_until(listens, 20, "it asks for the signal")
        os.kill(pid, signal.SIGTERM)
        began = time.monotonic()
        wait_until(lambda: not alive(pid), 5, "it ends")
        assert time.monotonic() - began < 2
