"""Tests that are killed leave no tree behind."""

from __future__ import annotations

import subprocess
import sys

from tests.support.server import alive, children_of, die_with_the_test, wait_until

TEST = """
import time
from tests.places.small import tree
with tree() as running:
    running.wait_ready()
    print(running.process.pid, flush=True)
    time.sleep(600)
"""


def test_a_tree_dies_with_its_test() -> None:
    test = subprocess.Popen(
        [sys.executable, "-c", TEST],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        preexec_fn=die_with_the_test,  # noqa: PLW1509 - it only makes a system call
    )
    with test:
        assert test.stdout is not None
        pid = int(test.stdout.readline())
        below = {pid, *children_of(pid)}
        assert len(below) > 1
        test.kill()
        wait_until(lambda: not any(map(alive, below)), 20, "all of it is gone")
