"""Children that the system does not let start: there are no descriptors left."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import tempfile

from tests.places.small import COMMAND, tree
from tests.support.server import wait_until


def test_a_start_without_descriptors_says_what_to_do() -> None:
    line = 'ulimit -n 24; exec "$@"'
    done = subprocess.run(
        ["bash", "-c", line, "-", *COMMAND], stderr=subprocess.PIPE, timeout=60, check=False
    )
    assert done.returncode != 0
    assert b"cannot be started: too many open files" in done.stderr
    assert b"ulimit -n" in done.stderr
    assert b"Traceback" not in done.stderr


def test_a_child_that_cannot_be_started_now_is_started_later() -> None:
    with tempfile.TemporaryFile() as log, tree(stderr=log) as running:

        def said(text: bytes) -> bool:
            return text in os.pread(log.fileno(), 1 << 20, 0)

        running.wait_ready()
        pid = running.process.pid
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, before[1]))
        frontend = running.titles()["frontend [ready]"]
        os.kill(frontend, signal.SIGKILL)
        wait_until(lambda: said(b"frontend: it cannot be started"), 30, "it is told")
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
        wait_until(lambda: "frontend [ready]" in running.titles(), 30, "it is back")
        assert running.titles()["frontend [ready]"] != frontend
        assert running.stop() == 0
