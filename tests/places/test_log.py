"""The log never stands in the way: whoever reads it, the tree restarts and ends as ever."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from pathlib import Path

import pytest

from tests.places.small import COMMAND, tree
from tests.support.server import wait_until
from tests.support.tree import FLOOD


def fill(descriptor: int) -> None:
    """Until not a byte more goes into the pipe."""
    os.set_blocking(descriptor, False)
    for size in (4096, 1):
        try:
            while True:
                os.write(descriptor, b"x" * size)
        except BlockingIOError:
            continue
    os.set_blocking(descriptor, True)


def test_a_log_that_nobody_reads() -> None:
    read, write = os.pipe()
    fill(write)
    with tree(stderr=write) as running:
        os.close(write)
        running.wait_ready()
        running.kill_and_wait()
        began = time.monotonic()
        assert running.stop() == 0
        assert time.monotonic() - began < 10
    os.close(read)


def test_a_log_whose_reader_is_gone() -> None:
    read, write = os.pipe()
    with tree(stderr=write) as running:
        os.close(write)
        os.close(read)
        running.wait_ready()
        running.kill_and_wait()
        assert running.stop() == 0


def test_a_log_on_a_full_disk() -> None:
    with Path("/dev/full").open("wb") as full, tree(stderr=full) as running:
        running.wait_ready()
        running.kill_and_wait()
        assert running.stop() == 0


def test_what_is_missing_is_told_when_somebody_reads_again() -> None:
    read, write = os.pipe()
    fill(write)
    with tree(stderr=write, env=os.environ | {FLOOD: "1"}) as running:
        os.close(write)
        running.wait_ready()
        running.kill_and_wait()
        lines: list[str] = []

        def read_all() -> None:
            with os.fdopen(read, errors="replace") as log:
                lines.extend(log)

        reader = threading.Thread(target=read_all)
        reader.start()
        wait_until(
            lambda: any("lines of this log are missing" in line for line in lines), 30, "it is told"
        )
        assert running.stop() == 0
        reader.join(10)


def test_a_child_that_never_stops_talking_holds_up_nobody() -> None:
    with tree(stderr=subprocess.DEVNULL, env=os.environ | {FLOOD: "1"}) as running:
        running.wait_ready()
        running.kill_and_wait("frontend")
        began = time.monotonic()
        assert running.stop() == 0
        assert time.monotonic() - began < 15


def test_timeout_asks_and_does_not_insist() -> None:
    """It sends its signal to the process and to its group, also when it got that signal itself."""
    command = ["timeout", "--preserve-status", "600", *COMMAND]
    log_read, log_write = os.pipe()
    with tree(command=command, stderr=log_write) as running:
        os.close(log_write)
        running.wait_ready()
        assert running.stop() == 0
    with os.fdopen(log_read, errors="replace") as log:
        assert "stopping at once" not in log.read()


@pytest.mark.parametrize("count", [1, 2])
def test_sigterm_to_the_group_is_for_the_supervisor_alone(count: int) -> None:
    log_read, log_write = os.pipe()
    with tree(stderr=log_write) as running:
        os.close(log_write)
        running.wait_ready()
        began = time.monotonic()
        if count == 2:
            os.killpg(running.process.pid, 2)  # Ctrl-C; the second one insists
        code = running.stop(group=True)
        assert code in ((0,) if count == 1 else (0, 130))
        assert time.monotonic() - began < 10
    with os.fdopen(log_read, errors="replace") as log:
        said = log.read()
    assert "died" not in said
    assert "starts again" not in said
    assert "in time" not in said
