"""The process of the host cache in the real tree: it is started, and its death harms nobody."""

from __future__ import annotations

import os
import signal

import pytest

from tests.support.requests import complete
from tests.support.server import Server, wait_until

pytestmark = pytest.mark.engine


def test_the_host_cache_dies_and_requests_go_on() -> None:
    shape = ("--workers", "2", "--processors", "1", "--router", "round-robin")
    with Server("--engine", "mock", *shape, "--host-cache", "16MiB") as server:
        assert "host cache: up to 16 MiB of memory" in server.log
        before = server.processes()["host cache"]
        assert before["phase"] == "ready"
        os.kill(before["pid"], signal.SIGKILL)
        assert [complete(server)[0] for _ in range(4)] == [200] * 4

        def back() -> bool:
            now = server.processes()["host cache"]
            return bool(now["restarts"] == 1 and now["phase"] == "ready")

        wait_until(back, 30, "the host cache is back")
        assert server.get("/health")[0] == 200
        assert [complete(server)[0] for _ in range(4)] == [200] * 4
