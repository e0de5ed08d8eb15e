"""The small tree of tests/support/tree.py in strange places."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.server import alive, children_of, die_with_the_test, wait_until

COMMAND = (sys.executable, "-m", "tests.support.tree")
START_S, BACK_S, STOP_S = 60.0, 30.0, 20.0
READY = ("frontend [ready]", "router [ready]", "worker 0 [ready]", "worker 1 [ready]")


class Tree:
    """A running one; what it is doing is read from the titles of its children."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process

    def titles(self) -> dict[str, int]:
        """Pids by what ``ps`` shows: ``worker 0 [ready]``."""
        found = {}
        for pid in children_of(self.process.pid):
            try:
                title = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").decode()
            except OSError:
                continue  # it ended meanwhile
            found[title.removeprefix("dynamo-llm: ")] = pid
        return found

    def wait_ready(self) -> None:
        def ready() -> bool:
            assert (code := self.process.poll()) is None, f"it ended with {code}"
            return set(READY) <= self.titles().keys()

        wait_until(ready, START_S, "all children are ready")

    def kill_and_wait(self, name: str = "worker 0") -> None:
        """Kill a child, and see it started again."""
        pid = self.titles()[f"{name} [ready]"]
        os.kill(pid, signal.SIGKILL)
        wait_until(
            lambda: self.titles().get(f"{name} [ready]", pid) != pid, BACK_S, f"{name} is back"
        )

    def stop(self, *, group: bool = False) -> int:
        """SIGTERM, to it alone or to its group; then nothing may be left of it."""
        below = children_of(self.process.pid)
        send = os.killpg if group else os.kill
        send(self.process.pid, signal.SIGTERM)
        code = self.process.wait(STOP_S)
        wait_until(lambda: not any(map(alive, below)), 5, "its children are gone")
        return code


def told_in(place: Sequence[str]) -> str:
    """Start the tree by a command that makes a place, replace a child, and end it.

    Returns:
        what it wrote to standard error.
    """
    with tree(command=[*place, *COMMAND], stderr=subprocess.PIPE) as running:
        running.wait_ready()
        running.kill_and_wait()
        assert running.stop() == 0
        _, told = running.process.communicate()
    return told.decode()


@contextmanager
def tree(*words: str, command: Sequence[str] = COMMAND, **options: Any) -> Iterator[Tree]:
    """Start it, with options of `subprocess.Popen`, in a group of its own."""
    given = {
        "stdin": subprocess.DEVNULL,
        "stdout": subprocess.DEVNULL,
        "start_new_session": True,
        "preexec_fn": die_with_the_test,
    }
    process = subprocess.Popen([*command, *words], **(given | options))
    try:
        yield Tree(process)
    finally:
        process.kill()
        process.wait()
        if process.stderr is not None:
            process.stderr.close()
