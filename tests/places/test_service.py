"""As a service of systemd: what its journal and its service manager get from a whole run."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path

from tests.places.small import tree
from tests.support.server import wait_until

WATCHDOG_S = 0.3
BEAT = "WATCHDOG=1"


def received(end: socket.socket) -> list[str]:
    """Everything that has come so far."""
    found = []
    try:
        while data := end.recv(1 << 16):
            found.append(data.decode())
    except BlockingIOError:
        pass
    return found


def test_lines_have_priorities_and_no_time_and_the_manager_hears_of_start_life_and_end(
    tmp_path: Path,
) -> None:
    journal, stream = socket.socketpair()
    with journal, stream, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        for end in (journal, manager):
            end.setblocking(False)
        known = os.fstat(stream.fileno())
        environment = {
            "JOURNAL_STREAM": f"{known.st_dev}:{known.st_ino}",
            "NOTIFY_SOCKET": str(tmp_path / "notify"),
            "WATCHDOG_USEC": str(int(WATCHDOG_S * 1e6)),
        }
        with tree(env=os.environ | environment, stdout=stream, stderr=stream) as running:
            try:
                running.wait_ready()
            except AssertionError as error:
                raise AssertionError(f"{error}: {received(journal)}") from error
            running.kill_and_wait()
            told = received(manager)
            beats: list[str] = []

            def alive() -> bool:
                beats.extend(received(manager))
                return beats.count(BEAT) >= 3

            wait_until(alive, 10, "it gives signs of life")
            assert running.stop() == 0
        told += [*beats, *received(manager)]
        states = [line for one in told for line in one.splitlines() if line != BEAT]
        log = "".join(received(journal))
    check_log(log)
    check_states(states)


def check_log(log: str) -> None:
    """Each line has a priority and no time."""
    lines = log.splitlines()
    assert [line for line in lines if not re.match(r"<[2-7]>[a-z]", line)] == []
    assert not re.search(r"\d\d:\d\d:\d\d", log), "the journal adds the time"
    (death,) = [line for line in lines if "worker 0 (pid" in line and " died" in line]
    assert death.startswith("<4>dynamo-llm ")


def check_states(states: list[str]) -> None:
    """The start, ready once, the state in words, and the end."""
    ready = states.index("READY=1")
    assert all(one.startswith("STATUS=starting: ") for one in states[:ready])
    assert "STATUS=serving on /v1: 2 of 2 workers ready" in states[ready:]
    assert states[-2:] == ["STOPPING=1", "STATUS=waiting for running requests"]
    assert (states.count("READY=1"), states.count("STOPPING=1")) == (1, 1)
