"""The two servers that are compared, started with the same engine options."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from tests.support.server import COMMAND, children_of, free_port

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
START_S = 180.0
STOP_S = 30.0
ENGINE = (
    "--enforce-eager",
    "--kv-cache-memory-bytes",
    "268435456",
    "--max-num-seqs",
    "64",
)
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}
THEIRS = "vllm"
OURS = "dynamo-llm"


class Running:
    """Runs a server, from the start of its command to its end.

    Args:
        kind: `THEIRS` or `OURS`.
        model: folder of the model.
        more: further options for ours.
    """

    def __init__(self, kind: str, model: str, *more: str) -> None:
        self.kind = kind
        self.port = free_port()
        self._log = tempfile.NamedTemporaryFile("w+", prefix=f"{kind}-")  # noqa: SIM115
        self.began = time.perf_counter()
        self.process = subprocess.Popen(
            [*_command(kind, model, self.port), *ENGINE, *more],
            stdout=self._log,
            stderr=self._log,
            env=os.environ | ENVIRONMENT,
        )

    def wait_answer(self) -> float:
        """Return the time from the start of the command to its first answer of one token,
        seconds."""
        return self._wait_until(self._answers)

    def wait_ready(self) -> float:
        """Return the time until every process of ours is ready, seconds."""
        return self._wait_until(self._all_ready)

    def _wait_until(self, condition: object) -> float:
        assert callable(condition)
        while not condition():
            waited = time.perf_counter() - self.began
            if self.process.poll() is not None or waited > START_S:
                raise RuntimeError(
                    f"{self.kind} did not start:\n{Path(self._log.name).read_text()}"
                )
            time.sleep(0.02)
        return time.perf_counter() - self.began

    def _answers(self) -> bool:
        body = b'{"model": "bench", "prompt": [5], "max_tokens": 1}'
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/v1/completions",
            body,
            {"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, ConnectionError):
            return False

    def _all_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health") as answer:
                return b'"ok"' in answer.read()
        except (urllib.error.URLError, ConnectionError):
            return False

    def _pids(self) -> list[int]:
        return [self.process.pid, *children_of(self.process.pid)]

    def cpu_s(self) -> float:
        """Return the user and system time of all processes so far, seconds."""
        total = 0
        for pid in self._pids():
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
        return total / TICKS_PER_S

    def memory_mib(self) -> float:
        """Return the memory of all processes, MiB; shared memory counts once."""
        kib = 0
        for pid in self._pids():
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            kib += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        return kib / 1024

    def stop(self) -> None:
        below = children_of(self.process.pid)
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            for pid in (self.process.pid, *below):
                os.kill(pid, signal.SIGKILL)
            self.process.wait()
        self._log.close()


def _command(kind: str, model: str, port: int) -> list[str]:
    name = ["--model", model, "--served-model-name", "bench"]
    if kind == OURS:
        return [COMMAND, *name, "--http-port", str(port), "--ui", "plain"]
    return [
        sys.executable,
        "-m",
        "vllm.entrypoints.launchers.api_server.entry",
        *name,
        "--port",
        str(port),
        "--host",
        "127.0.0.1",
        # Ours writes no such lines.
        "--disable-uvicorn-access-log",
    ]
