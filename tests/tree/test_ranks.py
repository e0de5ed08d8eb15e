"""An engine of two ranks answers, is restarted when a rank dies, and leaves no rank behind.

With its supervisor the engine ends as every other child (`tests.tree.test_end`), and the ranks with
the engine.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.support.requests import complete
from tests.support.server import SMALL, Server, alive, children_of, wait_until

pytestmark = pytest.mark.engine
KILLED_S = 2.0
BACK_S = 120.0


def ranks_of(worker: int) -> list[int]:
    """The pids of the ranks of a worker's engine."""
    titles = {pid: Path(f"/proc/{pid}/cmdline").read_text() for pid in children_of(worker)}
    return [pid for pid, title in titles.items() if "VLLM" in title]


def test_ranks_live_and_die_with_their_engine() -> None:
    with Server(*SMALL, "--worker-tp", "2") as server:
        status, answer = complete(server, 8)
        assert (status, answer["usage"]["completion_tokens"]) == (200, 8)
        worker = server.pid_of("worker 0")
        ranks = ranks_of(worker)
        assert len(ranks) == 2
        # Ctrl-C reaches every process of a terminal, but only the supervisor acts on it.
        for rank in ranks:
            os.kill(rank, signal.SIGINT)
            os.kill(rank, signal.SIGTERM)
        assert complete(server)[0] == 200

        os.kill(ranks[0], signal.SIGKILL)
        wait_until(lambda: not any(map(alive, (worker, *ranks))), 30, "the engine ends")
        assert "a rank of this engine has ended" in server.log
        # The supervisor may not have seen its end yet, so that the server still says it is ready.
        back = lambda: server.pid_of("worker 0") not in (0, worker)  # noqa: E731
        wait_until(back, BACK_S, "there is a new engine")
        wait_until(lambda: server.get("/health")[0] == 200, BACK_S, "it is ready")
        assert complete(server)[0] == 200

        worker = server.pid_of("worker 0")
        ranks = ranks_of(worker)
        os.kill(worker, signal.SIGKILL)
        wait_until(lambda: not any(map(alive, ranks)), KILLED_S, "the ranks end with the engine")
        assert len(ranks) == 2
