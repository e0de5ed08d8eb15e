"""The dashboard in a real terminal (tmux), with real engines, driven by keys."""

from __future__ import annotations

import asyncio
import shlex
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import pytest

from tests.dashboard.browser import CHROMIUM, browse
from tests.support.requests import Stream, complete
from tests.support.server import (
    COMMAND,
    READY_S,
    SMALL,
    Server,
    alive,
    children_of,
    free_port,
    wait_until,
)

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed"),
]

WAIT_S = 15.0


class Terminal:
    """A tmux session with one command, followed by a shell, so that tests see the terminal
    afterwards."""

    def __init__(self, *command: str, width: int = 80, height: int = 24, env: str = "") -> None:
        self._socket = f"dynamo-test-{uuid.uuid4().hex[:8]}"
        line = (
            f"{env} {shlex.join(command)}; code=$?; echo; stty -a; "
            "echo exit code $code; exec sleep 600"
        )
        size = ("-x", str(width), "-y", str(height))
        self._tmux("-f", "/dev/null", "new-session", "-d", *size, line)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self._tmux("kill-server")

    def keys(self, *names: str) -> None:
        self._tmux("send-keys", *names)

    def text(self) -> str:
        return self._tmux("capture-pane", "-p", "-S", "-50")

    def wait_for(self, words: str, timeout_s: float = WAIT_S) -> str:
        """Wait until these words are on the screen, and return the screen."""
        deadline = time.monotonic() + timeout_s
        while words not in (text := self.text()):
            assert time.monotonic() < deadline, f"{words!r} does not come:\n{text}"
            time.sleep(0.1)
        return text

    @property
    def pid(self) -> int:
        return int(self._tmux("display-message", "-p", "#{pane_pid}"))

    def _tmux(self, *args: str) -> str:
        done = subprocess.run(
            ["tmux", "-L", self._socket, *args], capture_output=True, text=True, check=True
        )
        return done.stdout


class Embedded(Terminal):
    """`dynamo-llm` in a terminal, with its dashboard."""

    def __init__(self, *args: str, width: int = 80, height: int = 24) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        super().__init__(
            *(COMMAND, "--model", "tiny", "--http-port", str(self.port), *SMALL, *args),
            width=width,
            height=height,
        )


def test_a_run_with_its_dashboard_from_start_to_end() -> None:
    with Embedded("--router", "kv", "--workers", "2", "--prefill-workers", "1") as terminal:
        terminal.wait_for("importing", READY_S)
        terminal.wait_for("● serving", READY_S)
        picture = terminal.wait_for("nothing needs attention")
        for words in ("╭ HTTP", "╭ processors", "╭ workers", "╭ prefill workers", "╭ router"):
            assert words in picture
        for _ in range(3):
            assert complete(terminal, 4)[0] == 200  # type: ignore[arg-type] - it has a port
        terminal.keys("2")
        assert "TTFT ms" in terminal.wait_for("processor 0")
        terminal.keys("3")
        terminal.wait_for("→ ")
        terminal.keys("Enter")
        terminal.wait_for("it came in")  # the last line before that is not the end of the list
        terminal.keys("End")
        terminal.wait_for("ended with length")
        terminal.keys("Escape")
        terminal.wait_for(
            "waiting 0"
        )  # wait for the list, so that Escape is not taken as the prefix of the next key
        terminal.keys("5")
        assert "remote" in terminal.wait_for("jobs wait")
        terminal.keys("6")
        terminal.wait_for("serving on")
        with Stream(terminal):  # type: ignore[arg-type] - likewise
            terminal.keys("1")
            terminal.wait_for("1 in flight")
            terminal.keys("q")
            terminal.wait_for("A request is running")
            terminal.keys("n")
            terminal.wait_for("╭ workers")
            below = children_of(terminal.pid)
            terminal.keys("C-c")
            # The terminal is restored, and the rest comes as plain lines.
            terminal.wait_for("waiting up to")
            terminal.keys("C-c")
            end = terminal.wait_for("exit code", 20.0)
        assert "exit code 130" in end
        assert "stopping at once" in end
        assert "╭" not in end
        assert " icanon " in end.replace("\n", " ")
        assert " echo " in end.replace("\n", " ")
        left = below - children_of(terminal.pid)
        wait_until(lambda: not any(map(alive, left)), 2.0, "its processes are gone")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(*SMALL) as server:
        yield server


def test_an_attached_one_leaves_the_server_alone(server: Server) -> None:
    command = (COMMAND, "top", "--url", server.url)
    with Terminal(*command, env="NO_COLOR=1") as terminal:
        terminal.wait_for("● serving")
        terminal.keys("2")
        terminal.wait_for("processor 0")
        terminal.keys("6")
        terminal.wait_for("serving on")
        terminal.keys("q")
        assert "exit code 0" in terminal.wait_for("exit code")
    assert complete(server)[0] == 200


def test_without_a_server_it_waits_and_says_so() -> None:
    with Terminal(COMMAND, "top", "--url", f"http://127.0.0.1:{free_port()}") as terminal:
        terminal.wait_for("connection refused")
        terminal.keys("C-c")
        assert "exit code 0" in terminal.wait_for("exit code")


def test_once_json_and_watch(server: Server) -> None:
    def top(*args: str, timeout_s: float = 20.0) -> str:
        done = subprocess.run(
            [COMMAND, "top", "--url", server.url, *args],
            capture_output=True,
            text=True,
            check=True,
            timeout=timeout_s,
        )
        return done.stdout

    complete(server, 4)
    assert "╭ workers" in top("--once")
    assert '"num_running_reqs": 0' in top("--json")
    watching = subprocess.Popen(
        [COMMAND, "top", "--url", server.url, "--watch", "--interval", "0.25"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert watching.stdout is not None
    lines = [watching.stdout.readline() for _ in range(3)]
    watching.terminate()
    watching.wait(10)
    watching.stdout.close()
    assert lines[0].startswith("time")
    assert all(line[2] == ":" for line in lines[1:])


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_the_dashboard_in_a_browser(server: Server, tmp_path: Path) -> None:
    port = free_port()
    web = subprocess.Popen(
        [COMMAND, "top", "--url", server.url, "--web", "--web-port", str(port)],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert web.stderr is not None
        assert f"the dashboard is at http://127.0.0.1:{port}" in web.stderr.readline()
        seen = asyncio.run(browse(f"http://127.0.0.1:{port}", tmp_path, until="serving"))
    finally:
        web.terminate()
        assert web.wait(10) == 0
        assert web.stderr is not None
        web.stderr.close()
    assert "processors" in seen.text
    assert seen.started
    assert seen.hosts == {f"127.0.0.1:{port}"}
    assert len(seen.picture) > 20_000, "a picture with nothing on it is smaller"
