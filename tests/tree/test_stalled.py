"""Processes that are stopped: they are replaced, and their requests go on elsewhere."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from dynamo_cli.host.activity import activity
from tests.support.requests import Stream, complete
from tests.support.server import Server, wait_until

pytestmark = pytest.mark.engine

TIMEOUT_S = 2.0
BACK_S = 60.0


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    engine = ("--engine", "mock", "--workers", "2", "--router", "kv")
    with Server(*engine, "--worker-timeout", str(TIMEOUT_S)) as running:
        yield running


@pytest.mark.parametrize("name", ["worker 0", "router", "processor 0", "zygote", "frontend"])
def test_a_process_that_is_stopped_is_replaced(server: Server, name: str) -> None:
    before = server.processes()[name]
    os.kill(before["pid"], signal.SIGSTOP)

    def back() -> bool:
        try:
            now = server.processes()[name]
        except OSError:
            return False  # the frontend itself
        return bool(now["pid"] != before["pid"] and now["phase"] == "ready")

    wait_until(back, BACK_S, f"{name} is replaced")
    assert "(a signal has stopped it)" in server.log
    assert complete(server)[0] == 200


def test_the_requests_of_a_worker_that_is_stopped_go_on(server: Server) -> None:
    with ExitStack() as stack:
        streams = [stack.enter_context(Stream(server, 400)) for _ in range(4)]
        os.kill(server.processes()["worker 1"]["pid"], signal.SIGSTOP)
        assert all(stream.rest().endswith(b"data: [DONE]\n\n") for stream in streams)
    _, page = server.get("/metrics")
    assert 'dynamo_llm_requests_moved_total{reason="stalled"} 0.0' not in str(page)


def test_what_the_kernel_says_of_a_process() -> None:
    code = "import time\nwhile True: time.process_time()"
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        try:
            began = activity(process.pid).cpu_s
            wait_until(lambda: activity(process.pid).cpu_s > began, 30, "it computes")
            assert activity(os.getpid()).cpu_s >= activity(process.pid).cpu_s
            process.send_signal(signal.SIGSTOP)
            wait_until(lambda: activity(process.pid).stopped, 30, "it is stopped")
        finally:
            process.kill()
    assert activity(process.pid).cpu_s == 0
