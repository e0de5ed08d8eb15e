"""How a run ends: failed starts, Ctrl-C, kill -9; and that nothing is left of it."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import time
from contextlib import ExitStack

import pytest

from dynamo_cli.host import activity
from tests.support.requests import Stream
from tests.support.server import SMALL, Server, children_of, wait_until

pytestmark = pytest.mark.engine

IMPORTED_S = 60.0


def errors_of(server: Server) -> list[str]:
    """The output that a user has to read, without the ordinary log and alarms of a busy machine."""
    lines = server.log.splitlines()
    return [line for line in lines if " INFO " not in line and " alarm (" not in line]


@pytest.mark.parametrize(
    ("args", "model", "within_s", "says"),
    [
        (("--max-num-seqs", "abc"), "tiny", 60, "takes a whole number; not 'abc'"),
        (("--max-model-len", "9999999"), "tiny", 60, "than the derived max_model_len"),
        (("--kv-cache-memory-bytes", f"{9 << 40}"), "tiny", 60, "than requested memory"),
        (("--tool-call-parser", "nope"), "tiny", 60, "--tool-call-parser cannot be 'nope'"),
        ((), "no/such-model", 10, "'no/such-model' is not in the Hugging Face cache"),
    ],
)
def test_a_start_that_cannot_work_ends_with_one_message(
    args: tuple[str, ...], model: str, within_s: float, says: str
) -> None:
    """Two of them end in the engine. What a user sees besides of a start is in the next test."""
    words = ("--engine-threads", "1", *args)
    with Server(*words, model=model, ready=False, fresh=False) as server:
        below = children_of(server.process.pid)
        assert server.wait(within_s) != 0
        server.assert_nothing_left(below)
        (message,) = errors_of(server)
        assert message.startswith("dynamo-llm: error: ")
        assert says in message


def test_a_port_that_is_taken_is_told_within_seconds() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with Server("--http-port", port, ready=False) as server:
            assert server.wait(10) == 1
            (message,) = errors_of(server)
            assert f"cannot listen on 127.0.0.1:{port}: address already in use" in message
            assert "--http-port" in message


def test_it_starts_as_a_user_starts_it_and_is_killed_in_the_middle_of_streams() -> None:
    """Before it is ready it answers 503 with the reason; its parent takes everything along."""
    with Server(*SMALL, "--workers", "2", ready=False, fresh=True) as server, ExitStack() as stack:
        wait_until(lambda: "frontend     ready" in server.log, 20, "the frontend listens")
        assert start_cpu_s(server) < 5
        check_that_it_is_not_ready(server)
        assert "zygote       ready" not in server.log, "nobody waits for the import of vLLM"
        server.wait_ready()
        table = server.processes()
        assert all(process["phase"] == "ready" for process in table.values())
        assert errors_of(server) == []
        for _ in range(8):
            stack.enter_context(Stream(server))
        below = children_of(server.process.pid)
        assert len(below) >= 6
        server.process.kill()
        server.process.wait()
        server.assert_nothing_left(below, timeout_s=2.0)


def start_cpu_s(server: Server) -> float:
    """CPU time of those who make the first answer: a busy machine makes only the wait longer."""
    pids = (server.process.pid, server.pid_of("frontend"))
    return sum(activity._stat(pid)[1] for pid in pids)


def check_that_it_is_not_ready(server: Server) -> None:
    status, health = server.get("/health")
    assert (status, health["status"]) == (503, "unavailable")
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.request("POST", "/v1/completions", "{}")
    answer = connection.getresponse()
    assert answer.status == 503
    assert int(answer.headers["Retry-After"]) > 0
    assert "not ready: " in json.loads(answer.read())["error"]["message"]
    connection.close()


@pytest.mark.parametrize("phase", ["zygote       importing", "worker 0     loading", "serving on"])
def test_when_the_parent_is_killed_everything_goes_within_two_seconds(phase: str) -> None:
    """The test above kills one that serves and was started as a user does it."""
    fresh = "importing" in phase
    with Server(*SMALL, ready=False, fresh=fresh) as server:
        wait_until(lambda: phase in server.log, IMPORTED_S, phase)
        below = children_of(server.process.pid)
        server.process.kill()
        server.process.wait()
        server.assert_nothing_left(below, timeout_s=2.0)


def test_ctrl_c_while_it_starts_ends_it_at_once() -> None:
    with Server(*SMALL, ready=False) as server:
        wait_until(lambda: "zygote       importing" in server.log, 10, "it imports")
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < 3
        assert "zygote       ready" not in server.log, "nobody waits for the import of vLLM"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_runs_is_finished_and_newcomers_are_turned_away(number: signal.Signals) -> None:
    """`tests.container.test_first_process` does it to one that was started as a user does it."""
    with Server(*SMALL) as server, Stream(server, 500) as stream:
        below = children_of(server.process.pid)
        server.signal(number)
        wait_until(lambda: not listens(server.port), 5, "it has stopped to listen")
        assert stream.rest().endswith(b"data: [DONE]\n\n")
        assert server.wait() == 0
        server.assert_nothing_left(below)


def test_a_second_ctrl_c_forces() -> None:
    """`tests.dashboard.test_terminal` does it to one that was started as a user does it."""
    with Server(*SMALL) as server, Stream(server):
        below = children_of(server.process.pid)
        server.signal(signal.SIGINT)
        wait_until(lambda: "for running requests" in server.log, 5, "it drains")
        server.signal(signal.SIGINT)
        began = time.monotonic()
        assert server.wait() == 130
        assert time.monotonic() - began < 6
        server.assert_nothing_left(below)


def test_a_drain_that_takes_too_long_is_cut() -> None:
    with Server(*SMALL, "--drain-timeout", "0.5") as server, Stream(server) as stream:
        below = children_of(server.process.pid)
        server.signal(signal.SIGINT)
        assert b'"draining"' in stream.rest()
        assert server.wait() == 0
        server.assert_nothing_left(below)


def test_it_does_not_wait_for_what_nobody_can_finish() -> None:
    """Nothing is started again at the end, so that a request whose worker dies ends then."""
    with Server("--engine", "mock", "--drain-timeout", "600") as server, Stream(server) as stream:
        below, worker = children_of(server.process.pid), server.pid_of("worker 0")
        server.signal(signal.SIGINT)
        wait_until(lambda: "for running requests" in server.log, 5, "it drains")
        os.kill(worker, signal.SIGKILL)
        assert b'"draining"' in stream.rest()
        assert server.wait() == 0
        assert "no worker is left: the running requests fail" in server.log
        server.assert_nothing_left(below)


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
