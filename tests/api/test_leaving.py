"""Clients that leave, and clients that read slowly."""

from __future__ import annotations

import json
import socket
import time
from typing import Any

import pytest

from tests.support.requests import LONG, Stream, complete
from tests.support.server import Server, wait_until

pytestmark = pytest.mark.engine


def post(server: Server, **body: Any) -> socket.socket:
    """Ask for a completion over a bare socket."""
    content = json.dumps({"model": "tiny", "ignore_eos": True, "max_tokens": 1900} | body)
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=30)
    head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
    head += f"Content-Length: {len(content)}\r\n\r\n"
    connection.sendall((head + content).encode())
    return connection


def running(server: Server) -> int:
    return sum(worker["num_running_reqs"] for worker in server.snapshot()["workers"])


def left(server: Server) -> int:
    """Return how many requests were aborted because their clients had left."""
    count: int = server.snapshot()["aborts"].get("client_left", 0)
    return count


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_frees_the_engine_within_a_second(
    server: Server, stream: bool
) -> None:
    wait_until(lambda: running(server) == 0, 10, "it is idle")
    with post(server, prompt="a", stream=stream):
        wait_until(lambda: running(server) == 1, 10, "it runs")
    wait_until(lambda: running(server) == 0, 1.0, "it is aborted")


def test_a_client_may_leave_during_prefill(server: Server) -> None:
    wait_until(lambda: running(server) == 0, 10, "it is idle")
    before = left(server)
    for _ in range(20):
        with post(server, prompt=[5] * 2000, max_tokens=40, stream=True):
            pass
    wait_until(lambda: left(server) == before + 20, 10, "all are aborted")
    wait_until(lambda: running(server) == 0, 5, "the engine is idle")
    assert complete(server)[0] == 200


def test_a_stream_is_written_as_it_comes(server: Server) -> None:
    with post(server, prompt="a", max_tokens=1900, stream=True) as connection:
        times, data = [], b""
        while not data.endswith(b"0\r\n\r\n"):
            part = connection.recv(1 << 16)
            times.append(time.monotonic())
            data += part
    head, _, body = data.partition(b"\r\n\r\n")
    head = head.lower()
    assert head.startswith(b"http/1.1 200")
    assert b"\r\ncontent-type: text/event-stream" in head
    assert b"\r\ncache-control: no-cache" in head
    assert b"data: [DONE]\n\n" in body
    # A reader on a busy core gets several tokens at once, but only a buffered stream gives it all.
    assert len(times) > 20, "tokens came as they were made"
    assert times[2] - times[0] < (times[-1] - times[0]) / 2


def test_a_slow_reader_does_not_slow_others(server: Server) -> None:
    with Stream(server, 1900) as slow, Stream(server, 300) as fast:
        began = time.monotonic()
        assert fast.rest().endswith(b"data: [DONE]\n\n")
        assert time.monotonic() - began < 15
        assert slow.rest().endswith(b"data: [DONE]\n\n")
    assert LONG > 1900
