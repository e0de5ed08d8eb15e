"""The servers that are compared, started with the same engine options."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from dynamo_cli.host.gpus import read_gpus
from tests.benchmarks import rust
from tests.support.server import Server, alive, children_of, stopped, wait_until

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
START_S = 300.0
ENGINE = (
    "--enforce-eager",
    "--kv-cache-memory-bytes",
    "268435456",
    "--max-num-seqs",
    "64",
    "--max-model-len",
    "32768",
)
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1",  # of the tiny model, for long prompts
}
THEIRS = "vllm"
RUST = "vllm-rs"
OURS = "dynamo-llm"
VLLM = "vllm.entrypoints.launchers.api_server.entry"


class Running(Server):
    """A server from the start of its command to its end.

    Args:
        kind: `THEIRS`, `RUST` (the same engine behind vLLM's frontend in Rust) or `OURS`.
        model: a folder.
        more: options for ours.
        variables: of its environment, beside those that all have.
    """

    def __init__(
        self, kind: str, model: str, *more: str, variables: dict[str, str] | None = None
    ) -> None:
        self.kind = kind
        options = ("--served-model-name", "bench", *ENGINE, *self._beside(), *more)
        environment = ENVIRONMENT | (rust.environment() if kind == RUST else {}) | (variables or {})
        super().__init__(*options, model=model, ready=False, environment=environment)
        self.__enter__()

    def _beside(self) -> list[str]:
        """Options that let it share a GPU with another server."""
        if not read_gpus():
            return []
        return ["--gpu-memory-utilization", "0.3", *(["--reuse-gpus"] if self.kind == OURS else [])]

    def _words(self) -> list[str]:
        if self.kind == OURS:
            return [*super()._words(), "--ui", "plain"]
        address = ("--host", "127.0.0.1", "--port", str(self.port))
        if self.kind == RUST:
            name, model, *engine = self._args
            return [str(rust.program()), "serve", self._model, *address, name, model, "--", *engine]
        # Ours writes no log of accesses.
        options = (*address, *self._args, "--disable-uvicorn-access-log")
        return [sys.executable, "-m", VLLM, "--model", self._model, *options]

    def wait_answer(self) -> float:
        """Seconds from the start of the command to its first answer of one token."""
        wait_until(self._answers, START_S, f"{self.kind} answers")
        return time.monotonic() - self.started

    def wait_serving(self) -> float:
        """Seconds until every process of ours is ready."""
        self.wait_ready(START_S)
        return time.monotonic() - self.started

    def _answers(self) -> bool:
        self.check_that_it_runs()
        body = b'{"model": "bench", "prompt": [5], "max_tokens": 1}'
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.url}/v1/completions", body, headers)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, ConnectionError):
            return False

    def pids(self) -> list[int]:
        """Return its processes."""
        return [self.process.pid, *children_of(self.process.pid)]

    def cpu_s(self) -> float:
        """Return the user and system time of all processes so far, seconds."""
        return cpu_s_of(self.pids())

    def memory_mib(self) -> float:
        """Return the memory of all processes, MiB; shared memory counts once."""
        kib = 0
        for pid in self.pids():
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            kib += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        return kib / 1024

    def stop(self) -> int:
        """Ctrl-C; of ours nothing may be left, and theirs is ended in any case."""
        below = children_of(self.process.pid)
        try:
            if self.kind == OURS:
                return super().stop()
            self.signal(signal.SIGINT)
            return self.wait()
        except subprocess.TimeoutExpired:
            return -signal.SIGKILL
        finally:
            for pid in filter(alive, below):  # the frontend in Rust leaves its engine for a while
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.close()


class Measured(Protocol):
    """What is measured: a server at a port of this machine, with all of its processes."""

    port: int

    def pids(self) -> list[int]:
        """Return its processes."""


def cpu_s_of(pids: Iterable[int]) -> float:
    """Return the user and system time of processes so far, seconds."""
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICKS_PER_S


@contextmanager
def alone(measured: Measured, servers: Sequence[Measured]) -> Iterator[None]:
    """Pause all other servers, because vLLM's engine takes most of a core for a while after its
    last request."""
    with stopped([pid for server in servers if server is not measured for pid in server.pids()]):
        yield
