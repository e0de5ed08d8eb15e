"""`dynamo-llm` as a user starts it: the real command, in its own process group.

This is the one place that starts servers, waits until they serve, and looks for what they leave:

- `Server` is the command with its own log and temporary folder. Most tests want it.
- `Serving` is a server that something else has started: a terminal, or a benchmark.
- `tests.benchmarks.servers.Running` is a `Server`, or vLLM's own, with the options of benchmarks.

What is not a server has other places: `tests.support.tree` (with `tests.places.small`) is the real
supervisor over children that do nothing, and `tests.support.driver` runs programs that use an
engine, or a processor's half of one, without a server around it.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from dynamo_cli.host.cache import PRIVATE
from tests.support import invariants
from tests.support.preloaded import ENGINES, Forked

READY_S = 120.0
STOP_S = 40.0
SHARED_S = 15.0
"""Within which the names that other tests leave are gone."""

TRACKED = ("psm_", "sem.mp-")
"""How names begin that a resource tracker of multiprocessing knows."""

PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)
NOBODY: Any = {"processes": []}
_dice = random.SystemRandom()  # not that of hypothesis, which gives every test the same numbers

RETIRED = "has ended ("
"""What the log says of a worker that left because fewer are wanted."""

COMMAND = str(Path(sys.executable).with_name("dynamo-llm"))
SMALL = ("--kv-cache-memory-bytes", "67108864", "--engine-threads", "1")
"""Engines that two cores can carry side by side."""


def free_port() -> int:
    """Return a port on which nobody listens.

    It is below those that the system gives to connections (from 32,768 on), which could take it
    before the server does.
    """
    while True:
        port = _dice.randrange(10_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port


def children_of(pid: int) -> set[int]:
    """Every process below `pid` now."""
    parents: dict[int, list[int]] = {}
    for number, stat in of_all_processes("stat"):
        after_name = stat.rpartition(b")")[2].split(maxsplit=2)
        parents.setdefault(int(after_name[1]), []).append(number)
    found: set[int] = set()
    left = [pid]
    while left:
        below = parents.get(left.pop(), [])
        found.update(below)
        left += below
    return found


def of_all_processes(name: str) -> Iterator[tuple[int, bytes]]:
    """Pid and content of this file of every process; without `Path`, since tests poll it."""
    for number in os.listdir("/proc"):  # noqa: PTH208
        if number.isdigit():
            try:
                with open(f"/proc/{number}/{name}", "rb", buffering=0) as file:  # noqa: PTH123
                    yield int(number), file.read()
            except OSError:
                continue  # it ended meanwhile


def alive(pid: int) -> bool:
    """It runs; one that only waits to be reaped does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def mapped(files: set[Path]) -> set[Path]:
    """Those of `files` that a living process has in its memory."""
    found: set[Path] = set()
    for _, maps in of_all_processes("maps") if files else ():
        found.update(file for file in files if os.fsencode(file) in maps)
    return found


def unowned(before: set[Path]) -> set[Path]:
    """Shared-memory files that were not there before and that no living process uses.

    What a living process uses is another test's. So is what a resource tracker of multiprocessing
    may still know: ranks of an engine have names that nobody maps for a while. The names of one
    that has just ended may stay a moment, until its tracker has removed them.
    """
    named = set(Path("/dev/shm").iterdir()) - before
    left = {path for path in named - mapped(named) if not locked(path)}
    if any(path.name.startswith(TRACKED) for path in left) and trackers():
        left = {path for path in left if not path.name.startswith(TRACKED)}
    return left


def trackers() -> list[int]:
    """Processes that remove names of multiprocessing when their owner ends."""
    mark = b"multiprocessing.resource_tracker"
    return [number for number, command in of_all_processes("cmdline") if mark in command]


def locked(path: Path) -> bool:
    """It is a folder of private caches whose owner lives."""
    if not path.name.startswith(PRIVATE):
        return False
    try:
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return True  # it is gone meanwhile, or another user's
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(folder)
    return False


def wait_until(condition: Any, timeout_s: float, what: str) -> None:
    """Poll until `condition()` is true: the longer it takes, the less often."""
    began = time.monotonic()
    while not condition():
        waited = time.monotonic() - began
        assert waited < timeout_s, f"{what}: not within {timeout_s} s"
        time.sleep(min(0.005 + waited / 20, 0.05))


@contextmanager
def stopped(pids: Sequence[int]) -> Iterator[None]:
    """Stop processes, and let them go on afterwards."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


class Serving:
    """A server at a port of this machine, whoever has started it.

    Attributes:
        log: what it has written, where that is known.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"

    @property
    def log(self) -> str:
        return ""

    def check_that_it_runs(self) -> None:
        """Raises AssertionError when it is known to have ended."""

    def get(self, path: str, timeout_s: float = 10.0, key: str = "") -> tuple[int, Any]:
        """Status and body (as JSON when it is) of a GET."""
        try:
            headers = {"Authorization": f"Bearer {key}"} if key else {}
            request = urllib.request.Request(self.url + path, headers=headers)
            with urllib.request.urlopen(request, timeout=timeout_s) as answer:
                return answer.status, _content(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, _content(error.read())

    def snapshot(self) -> Any:
        return self.get("/dynamo/snapshot")[1]

    def processes(self) -> dict[str, Any]:
        """The process table by name."""
        return {process["name"]: process for process in self.get("/health")[1]["processes"]}

    def pid_of(self, name: str) -> int:
        pid: int = self.processes()[name]["pid"]
        return pid

    def wait_ready(self, timeout_s: float = READY_S) -> None:
        """Until it serves with every process ready."""
        deadline = time.monotonic() + timeout_s
        while True:
            self.check_that_it_runs()
            assert time.monotonic() < deadline, f"not ready in time\n{self.log}"
            try:
                if self.get("/health")[1]["status"] == "ok":
                    return
            except (OSError, urllib.error.URLError):
                pass  # it does not listen yet
            time.sleep(0.05)


class Server(Serving):
    """Use as ``with Server("--workers", "2") as server``; it is ready inside.

    Args:
        args: options after ``--model`` and ``--http-port``.
        model: ``tiny``, ``demo`` or a folder.
        ready: wait until it serves; else until it is started.
        ready_s: the longest wait.
        fresh: start a Python for it, and one for its zygote, as a user does. Otherwise it is forked
            from a process that has imported vLLM (`tests.support.preloaded`), which saves 10 s of a
            core. Some tests of starts and ends need fresh ones. A server that is not awaited or has
            variables of its own is one unless told; one with a command of its own always is.
        environment: variables to add.

    Attributes:
        temporary: its folder for temporary files; nothing may be left in it.
    """

    command: tuple[str, ...] = (COMMAND,)

    def __init__(
        self,
        *args: str,
        model: str = "tiny",
        ready: bool = True,
        ready_s: float = READY_S,
        fresh: bool | None = None,
        environment: dict[str, str] | None = None,
    ) -> None:
        self._args = args
        self._model = model
        self._ready, self._ready_s = ready, ready_s
        self._environment = environment or {}
        special = not ready or bool(self._environment.keys() - {"DYNAMO_LLM_API_KEY"})
        self._fresh = special if fresh is None else fresh
        self._census: invariants.Census | None = None
        super().__init__(free_port())

    def __enter__(self) -> Server:
        self._folder = tempfile.TemporaryDirectory(prefix="dynamo-test-")
        self.temporary = Path(self._folder.name, "tmp")
        self.temporary.mkdir()
        self._log = Path(self._folder.name, "log")
        self._shared = set(Path("/dev/shm").iterdir())
        environment = os.environ | {"TMPDIR": str(self.temporary)} | self._environment
        self.started = time.monotonic()
        with self._log.open("w") as log:
            self.process = self._start(self._words(), environment, log)
        if self._ready:
            try:
                self.wait_ready(self._ready_s)
                self.take_census()
            except BaseException:
                self.kill()
                self._folder.cleanup()
                raise
        return self

    def _words(self) -> list[str]:
        """The command line."""
        port = str(self.port)
        return [*self.command, "--model", self._model, "--http-port", port, *self._args]

    def _start(
        self, words: list[str], environment: dict[str, str], log: IO[str]
    ) -> subprocess.Popen[bytes] | Forked:
        if self._preloaded:
            with Path(os.devnull).open() as nothing:
                return ENGINES.fork(words, environment, nothing, log, log)
        return subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,
            preexec_fn=die_with_the_test,  # noqa: PLW1509 - no threads in the tests' process
        )

    @property
    def _preloaded(self) -> bool:
        """No option changes what vLLM reads when it is imported."""
        alike = SMALL[2:] in pairwise(self._args) or ("--engine", "mock") in pairwise(self._args)
        return not self._fresh and alike and self.command == (COMMAND,)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        try:
            if self.process.poll() is None:
                if kind is None:
                    self.check_invariants()
                code = self.stop()
                if kind is None:
                    assert code == 0, f"exit code {code}\n{self.log}"
        finally:
            self.close()

    # -- looking -----------------------------------------------------------------------------

    @property
    def log(self) -> str:
        return self._log.read_text()

    def check_that_it_runs(self) -> None:
        assert self.process.poll() is None, f"it ended\n{self.log}"

    def look(self) -> Any:
        """The snapshot, also of a server with keys; None of one that does not serve."""
        keys = self._environment.get("DYNAMO_LLM_API_KEY", "")
        if "--api-key" in self._args:
            keys = self._args[self._args.index("--api-key") + 1]
        try:
            if self.get("/health")[0] != 200:
                return None
            status, snapshot = self.get("/dynamo/snapshot", key=keys.split(",")[0])
        except OSError:
            return None  # it is about to end
        assert status == 200, snapshot
        return snapshot

    def take_census(self) -> None:
        """Compare its descriptors with those of now: what is opened for good is open."""
        self._census = invariants.census(self.look() or NOBODY)

    def check_invariants(self) -> None:
        """What docs/invariants.md says of a server at rest; nothing of one that does not serve."""
        invariants.check(self.look, self._census, retired=RETIRED in self.log)

    # -- ending ------------------------------------------------------------------------------

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self, timeout_s: float = STOP_S) -> int:
        """Its exit code."""
        return self.process.wait(timeout_s)

    def stop(self) -> int:
        """Ctrl-C; then nothing may be left of it."""
        below = children_of(self.process.pid)
        self.signal(signal.SIGINT)
        code = self.wait()
        self.assert_nothing_left(below)
        return code

    def assert_nothing_left(self, below: set[int], timeout_s: float = 2.0) -> None:
        """No process of `below`, no shared-memory file and no temporary file."""
        wait_until(lambda: not any(map(alive, below)), timeout_s, f"children are gone\n{self.log}")
        deadline = time.monotonic() + SHARED_S
        while left := unowned(self._shared):
            assert time.monotonic() < deadline, f"shared memory is left: {left}"
            time.sleep(0.1)
        files = [str(path) for path in self.temporary.rglob("*")]
        assert not files, files

    def kill(self) -> None:
        """The end in any case; the children die with their parent."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def close(self) -> None:
        """The end in any case, and of its files too."""
        self.kill()
        self._folder.cleanup()


def _content(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return body.decode()


def die_with_the_test() -> None:
    """For ``preexec_fn``: who is killed while a test runs leaves no process behind."""
    _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
