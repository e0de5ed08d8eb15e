"""Compares with NVIDIA Dynamo: requests per second where simulated engines are not the limit.

    python -m tests.benchmarks.dynamo [--rounds 5] [--workers 4] [--speedup 10] [-- more options]

Both have KV routing, and the same number of simulated engines, which are as many times faster than
they say of themselves. Dynamo finds its processes through files and sends requests over TCP, so it
needs no other servers either. One is paused while the other is measured. pip fetches Dynamo into a
virtual environment of its own. Prints one Markdown row per figure, with the ratio ours / Dynamo's.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import uvloop

from dynamo_cli.host.cache import cache_root
from dynamo_cli.models import catalog
from tests.benchmarks import load
from tests.benchmarks.serve import HEAD, Figures, quantile, row
from tests.benchmarks.servers import alone, cpu_s_of
from tests.support.server import Server, Serving, alive, children_of, free_port, wait_until

VERSION = "1.6.1"
NEEDS = (
    *("aiohttp", "kubernetes<33", "msgspec", "prometheus-client<1", "pyzmq", "redis<9", "tqdm"),
    *("transformers>=4.56", "zstandard<1", "uvloop", "pydantic>=2.10.6,<=2.13.5"),
)
"""What its processes import; its metadata also names a simulator that is not on every index."""

LOADS = {"128/32": (128, 32, 64), "2,048/16": (2048, 16, 32), "128/256": (128, 256, 64)}
"""Name -> tokens of a prompt (about), tokens of an answer, clients."""

EACH = {"128/32": 12, "2,048/16": 6, "128/256": 2}
"""Requests of each client."""

START_S = 300.0


def interpreter() -> Path:
    """Return the Python of Dynamo's environment, which is made when it is not here yet."""
    folder = cache_root() / "benchmarks" / f"dynamo-{VERSION}"
    python = folder / "bin" / "python"
    mark = folder / "complete"
    if not mark.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        install = [str(python), "-m", "pip", "install", "--quiet"]
        wanted = (f"ai-dynamo=={VERSION}", f"ai-dynamo-runtime=={VERSION}")
        subprocess.run([*install, *NEEDS], check=True)
        subprocess.run([*install, "--no-deps", *wanted], check=True)
        mark.touch()
    return python


class Dynamo(Serving):
    """A frontend of Dynamo and a process with its simulated engines.

    Args:
        model: a folder.
        workers: number of engines.
        speedup: how many times faster than by default they are.
    """

    def __init__(self, model: str, workers: int, speedup: float) -> None:
        super().__init__(free_port())
        self._folder = tempfile.TemporaryDirectory(prefix="dynamo-bench-")
        engines = ("--num-workers", str(workers), "--speedup-ratio", str(speedup))
        self._processes = [
            self._start("frontend", "--http-port", str(self.port), "--router-mode", "kv"),
            self._start("mocker", "--model-path", model, "--model-name", "bench", *engines),
        ]

    def _start(self, module: str, *options: str) -> subprocess.Popen[bytes]:
        words = [str(interpreter()), "-m", f"dynamo.{module}", "--discovery-backend", "file"]
        environment = os.environ | {"DYN_FILE_KV": self._folder.name, "HF_HUB_OFFLINE": "1"}
        with Path(self._folder.name, f"{module}.log").open("wb") as log:
            return subprocess.Popen([*words, *options], stdout=log, stderr=log, env=environment)

    def check_that_it_runs(self) -> None:
        """Raise AssertionError, with the end of its log, if one of its processes has ended."""
        for process in self._processes:
            if process.poll() is not None:
                logs = Path(self._folder.name).glob("*.log")
                raise AssertionError("\n".join(log.read_text()[-2000:] for log in logs))

    def pids(self) -> list[int]:
        """Return its processes."""
        own = [process.pid for process in self._processes]
        return [*own, *(child for pid in own for child in children_of(pid))]

    def engines(self) -> list[int]:
        """Return the process with the engines."""
        return [self._processes[1].pid]

    def close(self) -> None:
        """End its processes."""
        for pid in filter(alive, self.pids()):
            os.kill(pid, signal.SIGKILL)
        for process in self._processes:
            process.wait()
        self._folder.cleanup()


class Ours(Server):
    """This server with simulated engines."""

    def __init__(self, model: str, workers: int, speedup: float, more: Sequence[str]) -> None:
        engines = ("--engine", "mock", "--workers", str(workers), "--speedup", str(speedup))
        options = ("--served-model-name", "bench", "--router", "kv", "--ui", "plain")
        super().__init__(*options, *engines, *more, model=model, ready=False)
        self.__enter__()

    def pids(self) -> list[int]:
        """Return its processes."""
        return [self.process.pid, *children_of(self.process.pid)]

    def engines(self) -> list[int]:
        """Return the processes with an engine each."""
        return [one["pid"] for name, one in self.processes().items() if name.startswith("worker")]


def answers(server: Serving) -> bool:
    """Return whether a server answers a request of the kind that is measured."""
    server.check_that_it_runs()
    try:
        sample = uvloop.run(load.streams(server.port, "bench", at_once=1, each=1, tokens=4))
    except (OSError, RuntimeError):
        return False
    return sample.tokens == 4


def measure(server: Dynamo | Ours, name: str) -> dict[str, float]:
    """Return the figures of one load."""
    prompt, tokens, clients = LOADS[name]
    engines = server.engines()
    others = [pid for pid in server.pids() if pid not in engines]
    before = cpu_s_of(engines), cpu_s_of(others)
    sample = uvloop.run(
        load.streams(
            server.port,
            "bench",
            at_once=clients,
            each=EACH[name],
            tokens=tokens,
            count=round(prompt * load.PROMPT_WORDS / load.PROMPT_TOKENS),
        )
    )
    engines_s, others_s = cpu_s_of(engines) - before[0], cpu_s_of(others) - before[1]
    assert sample.tokens == tokens * sample.requests, "an answer has another length"
    return {
        f"requests/s, {name}": sample.requests / sample.wall_s,
        f"TTFT p50, ms, {name}": 1000 * quantile(sample.ttft, 0.5),
        f"TTFT p99, ms, {name}": 1000 * quantile(sample.ttft, 0.99),
        f"CPU ms per request, engines, {name}": 1000 * engines_s / sample.requests,
        f"CPU ms per request, all others, {name}": 1000 * others_s / sample.requests,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--speedup", type=float, default=10.0)
    parser.add_argument("more", nargs="*", help="more options for ours, after --")
    given = parser.parse_args()
    interpreter()
    model = str(catalog.resolve("tiny", lambda progress: None).path)
    with ExitStack() as stack:
        theirs = Dynamo(model, given.workers, given.speedup)
        stack.callback(theirs.close)
        ours = Ours(model, given.workers, given.speedup, given.more)
        stack.callback(ours.close)
        stack.callback(ours.stop)
        ours.wait_ready(START_S)
        for server in (theirs, ours):
            wait_until(lambda one=server: answers(one), START_S, "it answers")
        print(HEAD.replace("vLLM", "Dynamo"), flush=True)
        for name in LOADS:
            figures: Figures = defaultdict(list)
            for number in range(given.rounds + 1):
                found = []
                for server in (theirs, ours):
                    with alone(server, [theirs, ours]):
                        found.append(measure(server, name))
                for figure in found[0] if number else ():  # the first round warms up
                    figures[figure].append((found[0][figure], found[1][figure]))
            for figure, pairs in figures.items():
                print(row(figure, pairs), flush=True)
    print(f"\n{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {given.rounds} rounds")


if __name__ == "__main__":
    main()
