"""The servers of `tests.benchmarks.gpus`, and what can be read from them."""

from __future__ import annotations

import argparse
import math
import sys
import urllib.request
from collections import Counter
from pathlib import Path

from tests.benchmarks.servers import OURS, THEIRS, TICKS_PER_S, Running

ROUTER = "dynamo_llm_router_"
EXPECTATION = ("predicted", "measured", "prompt")
"""Counters of tokens, for requests whose prefill was measured."""

DECISION = f"{ROUTER}decision_seconds_bucket"
OWN = {
    "rust": {"VLLM_USE_RUST_FRONTEND": "1"},
    "packed": {"VLLM_KV_CACHE_LAYOUT": "BLNHC"},
    "packed-disagg": {"VLLM_KV_CACHE_LAYOUT": "BLNHC"},
}
"""Variables of the environment of some servers."""

FRONT = ("frontend", "processor", "router")
"""Roles that must not be the limit, as engines are."""


def options_of(name: str, count: int, options: argparse.Namespace) -> tuple[str, list[str]]:
    """Kind of a server, and its options."""
    kv = ["--workers", str(count), "--router", "kv", "--reuse-gpus"]
    half = max(1, count // 2)
    roles = ["--workers", str(count - half), "--prefill-workers", str(half), "--conditional-disagg"]
    parallel = ["--data-parallel-size", str(count)] if count > 1 else []
    details = [*parallel, "--enable-prompt-tokens-details"]
    known = {
        "one": (OURS, ["--workers", "1", "--reuse-gpus"]),
        "kv": (OURS, kv),
        "host": (OURS, [*kv, "--host-cache", options.host_cache]),
        "packed": (OURS, [*kv, "--host-cache", options.host_cache]),
        "blind": (OURS, ["--workers", str(count), "--router", "round-robin", "--reuse-gpus"]),
        "disagg": (OURS, [*roles, "--host-cache", options.host_cache]),
        "packed-disagg": (OURS, [*roles, "--host-cache", options.host_cache]),
        "nixl": (OURS, [*roles, "--kv-transfer", "nixl"]),
        "vllm": (THEIRS, details),
        "rust": (THEIRS, details),
    }
    if name.startswith("chunk"):
        return OURS, [*kv, "--prefill-chunk-tokens", name.removeprefix("chunk")]
    if name.startswith("graphs"):
        sizes = name.removeprefix("graphs").split("-")
        return OURS, [*kv, "--cudagraph-capture-sizes", *sizes]
    if name not in known:
        raise SystemExit(f"there is no server {name!r}")
    return known[name]


class GpuServer(Running):
    """A server with engines on GPUs.

    Args:
        variables: more of its environment.
    """

    # The package need not be installed: these machines have no network.
    command = (
        sys.executable,
        "-c",
        "import sys; from dynamo_cli.cli import main; sys.exit(main())",
    )

    def __init__(
        self,
        name: str,
        count: int,
        options: argparse.Namespace,
        variables: dict[str, str] | None = None,
    ) -> None:
        kind, more = options_of(name, count, options)
        self.engine = ["--load-format", "dummy", "--max-model-len", "16384"]
        self.engine += ["--gpu-memory-utilization", str(options.utilization)]
        self.engine += ["--kv-cache-memory-bytes", str(int(options.cache_gb * 1e9))]
        self.more = more
        own = OWN.get(name, {}) | (variables or {})
        super().__init__(kind, options.model, *more, variables=own)

    def _beside(self) -> list[str]:
        return []  # `engine` and `more` have them

    def assert_nothing_left(self, below: set[int], timeout_s: float = 2.0) -> None:
        """Not asked: other servers leave names in shared memory meanwhile."""

    def _words(self) -> list[str]:
        # The options of a CPU engine, which `Running` gives, are replaced.
        if self.kind == THEIRS:
            command = [sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", self._model]
            address = ["--host", "127.0.0.1", "--port", str(self.port)]
            return [*command, "--served-model-name", "bench", *address, *self.engine, *self.more]
        words = super()._words()
        for flag, values in (("--enforce-eager", 0), ("--max-num-seqs", 1)):
            at = words.index(flag)
            del words[at : at + 1 + values]
        at = words.index("--kv-cache-memory-bytes")
        return [*words[:at], *self.engine, *words[at + 2 :]]

    def announce(self, name: str) -> None:
        """Print when it served."""
        print(f"{name}: first answer after {self.wait_answer():.1f} s", flush=True)
        if self.kind == OURS:
            print(f"{name}: all ready after {self.wait_serving():.1f} s", flush=True)


class Facts:
    """What a server has counted; two of them tell what happened between.

    Args:
        server: any; of vLLM's only the CPU time is known.
    """

    def __init__(self, server: GpuServer) -> None:
        self.cpu_s = server.cpu_s()
        self.tokens = [0.0] * len(EXPECTATION)
        self.decisions: Counter[float] = Counter()
        self.front_s: dict[str, float] = {}
        if server.kind == OURS:
            self._read(server)

    def _read(self, server: GpuServer) -> None:
        with urllib.request.urlopen(f"{server.url}/metrics", timeout=30) as answer:
            lines = [line.rpartition(" ") for line in answer.read().decode().splitlines()]
        values = {name: float(value) for name, _, value in lines if name.startswith(ROUTER)}
        self.tokens = [values.get(f"{ROUTER}{name}_tokens_total", 0.0) for name in EXPECTATION]
        for name, value in values.items():
            if name.startswith(DECISION):
                limit = name.partition('le="')[2].partition('"')[0]
                self.decisions[float(limit.replace("+Inf", "inf"))] = int(value)
        for name, one in server.processes().items():
            if name.startswith(FRONT):
                self.front_s[name] = cpu_s_of(one["pid"])

    def since(self, before: Facts, wall_s: float) -> dict[str, float]:
        """Figures of the time in between; none of a server of vLLM.

        Args:
            wall_s: how long it was, seconds.
        """
        if not self.front_s:
            return {}
        told = [after - first for after, first in zip(self.tokens, before.tokens, strict=True)]
        used = {name: cpu_s - before.front_s.get(name, 0.0) for name, cpu_s in self.front_s.items()}
        busiest = {
            f"busiest {role}, cores": max(
                cpu_s / wall_s for name, cpu_s in used.items() if name.startswith(role)
            )
            for role in FRONT
            if any(name.startswith(role) for name in used)
        }
        return {
            "expected less found, points": 100 * (told[0] - told[1]) / max(1, told[2]),
            "decision p99, ms": 1000 * _p99(self.decisions - before.decisions),
            "processors": sum(name.startswith("processor") for name in used),
            **busiest,
        }


def cpu_s_of(pid: int) -> float:
    """User and system time of a process so far, seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def _p99(buckets: Counter[float]) -> float:
    """The 99th percentile of a histogram whose buckets add up, within its bucket by proportion."""
    wanted, below, least = 0.99 * max(buckets.values(), default=0), 0, 0.0
    for limit, count in sorted(buckets.items()):
        if count >= wanted and count > below:
            width = (limit if limit < math.inf else least) - least
            return least + width * (wanted - below) / (count - below)
        below, least = count, limit
    return 0.0
