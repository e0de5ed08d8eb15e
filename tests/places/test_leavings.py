"""Tests that are killed leave no tree behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.support.preloaded import LIGHT
from tests.support.server import alive, children_of, die_with_the_test, wait_until

TEST = """
import time
from tests.places.small import tree
with tree() as running:
    running.wait_ready()
    print(running.process.pid, flush=True)
    time.sleep(600)
"""


SERVES = ("-m", "http.server", "--bind", "127.0.0.1", "0")
FORKS = f"""
import os, time
from tests.support.preloaded import LIGHT
with open(os.devnull, "r+") as nothing:
    running = LIGHT.fork({SERVES!r}, os.environ, nothing, nothing, nothing)
print(running.pid, flush=True)
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


def test_what_the_shared_process_has_forked_dies_with_its_test() -> None:
    with Path(os.devnull).open("r+") as nothing:
        running = LIGHT.fork(SERVES, os.environ, nothing, nothing, nothing)
        variable = {"DYNAMO_TEST_LIGHT": LIGHT.address}
        test = subprocess.Popen(
            [sys.executable, "-c", FORKS],
            stdout=subprocess.PIPE,
            env=os.environ | variable,
            preexec_fn=die_with_the_test,  # noqa: PLW1509 - it only makes a system call
        )
    with test:
        assert test.stdout is not None
        pid = int(test.stdout.readline())
        test.kill()
    wait_until(lambda: not alive(pid), 20, "it is gone")
    assert running.poll() is None, "what this test has forked lives on"
    running.kill()
    assert running.wait(20) < 0
