"""Children that die: their requests fail, other processes go on, and they are restarted."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.requests import Stream, complete, events
from tests.support.server import SMALL, Server, wait_until

pytestmark = pytest.mark.engine

BACK_S = 60.0
TOKENS = 500
"""Tokens of a stream that goes on for a second or more."""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    shape = ("--workers", "2", "--processors", "1", "--router", "round-robin")
    with Server(*SMALL, "--dtype", "float32", *shape) as running:
        yield running


def text_of(stream: Stream) -> str:
    """The text of a stream, which must come to its end."""
    whole = stream.first + stream.rest()
    return "".join(event["choices"][0]["text"] for event in events(whole))


def kill(server: Server, name: str) -> int:
    """Send SIGKILL to a child; returns how often it was restarted so far."""
    before = server.processes()[name]
    os.kill(before["pid"], signal.SIGKILL)
    restarts: int = before["restarts"]
    return restarts


def wait_back(server: Server, name: str, restarts: int) -> None:
    def back() -> bool:
        try:
            process = server.processes()[name]
        except OSError:
            return False  # the frontend itself is down
        return bool(process["restarts"] > restarts and process["phase"] == "ready")

    wait_until(back, BACK_S, f"{name} is back")


def test_titles_tell_the_role_and_the_phase(server: Server) -> None:
    for name, process in server.processes().items():
        title = Path(f"/proc/{process['pid']}/cmdline").read_bytes().rstrip(b"\0").decode()
        assert title == f"dynamo-llm: {name} [ready]"


def test_a_worker_dies_and_no_request_with_it(server: Server) -> None:
    with Stream(server, 2 * TOKENS) as quiet:
        whole = text_of(quiet)
    with ExitStack() as stack:
        # Two on each, of which one may have ended before the kill on a machine that is busy.
        streams = [stack.enter_context(Stream(server, 2 * TOKENS)) for _ in range(4)]
        restarts = kill(server, "worker 0")
        wait_until(lambda: server.processes()["worker 0"]["phase"] != "ready", 2, "it is noticed")
        assert [complete(server)[0] for _ in range(4)] == [200] * 4
        assert [text_of(stream) for stream in streams] == [whole] * 4
    wait_back(server, "worker 0", restarts)
    assert [complete(server)[0] for _ in range(4)] == [200] * 4
    said = re.compile(r"worker 0 .* died: .*; [12] requests? moved, 0 failed")
    wait_until(lambda: said.search(server.log), 10, "the log says so")


def test_the_router_dies_and_requests_go_on(server: Server) -> None:
    with Stream(server, 1000) as stream:
        restarts = kill(server, "router")
        assert [complete(server)[0] for _ in range(4)] == [200] * 4
        wait_back(server, "router", restarts)
        assert complete(server)[0] == 200
        assert stream.rest().endswith(b"data: [DONE]\n\n")


def test_the_only_processor_dies_and_its_requests_wait_for_its_next_life(server: Server) -> None:
    with Stream(server, TOKENS) as quiet:
        whole = text_of(quiet)
    with Stream(server, TOKENS) as stream:
        restarts = kill(server, "processor 0")
        wait_until(lambda: server.get("/health")[0] == 503, 10, "it says that nothing can serve")
        assert complete(server)[0] == 503
        assert text_of(stream) == whole
    wait_back(server, "processor 0", restarts)
    assert complete(server)[0] == 200

    def idle() -> bool:
        workers = server.snapshot()["workers"]
        return all(worker["num_running_reqs"] == 0 for worker in workers)

    wait_until(idle, 5, "the engines have let go of what it had asked for")


def test_the_frontend_dies_and_who_connects_waits_for_the_next(server: Server) -> None:
    with Stream(server) as stream:
        restarts = kill(server, "frontend")
        stream.rest()
    assert complete(server)[0] == 200, "nobody is refused meanwhile"
    wait_back(server, "frontend", restarts)


def test_the_zygote_dies_under_load_and_nobody_notices(server: Server) -> None:
    before = server.processes()
    with ExitStack() as stack:
        streams = [stack.enter_context(Stream(server, TOKENS)) for _ in range(4)]
        restarts = kill(server, "zygote")
        assert [complete(server)[0] for _ in range(4)] == [200] * 4
        ends = [stream.rest() for stream in streams]
    assert all(end.endswith(b"data: [DONE]\n\n") and b'"error"' not in end for end in ends)
    wait_back(server, "zygote", restarts)
    after = server.processes()
    assert {name for name in after if after[name]["pid"] != before[name]["pid"]} == {"zygote"}
    restarts = kill(server, "worker 1")
    wait_back(server, "worker 1", restarts)
    assert [complete(server)[0] for _ in range(4)] == [200] * 4


def test_requests_that_must_not_move_leave_no_traceback_in_the_log() -> None:
    with Server("--engine", "mock", "--migration-limit", "0") as server:
        with Stream(server) as stream:
            kill(server, "worker 0")
            assert b"worker 0 stopped" in stream.rest()
        wait_until(lambda: "error=worker_lost" in server.log, 30, "the line of the request")
        assert "RequestFailed" not in server.log
