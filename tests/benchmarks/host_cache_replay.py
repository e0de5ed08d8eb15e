"""What a host cache would bring to the conversation trace, at the loads of docs/routing.md.

    python -m tests.benchmarks.host_cache_replay TRACE

TRACE is the conversation trace in Mooncake's format, of which the second half is replayed. The host
cache is shared by all engines and as large as 0, 1 and 4 times their own caches together. Prints
the Markdown table of docs/host-cache.md; the figures are the same on every machine.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import msgspec

from dynamo_cli.engines.mock import profile
from dynamo_cli.lab.replay.loop import Replay
from dynamo_cli.lab.replay.routers import SERVED
from dynamo_cli.lab.report import Summary, summarize
from dynamo_cli.lab.trace.reading import read
from dynamo_cli.lab.trace.trace import Trace, infinite_hit_ratio
from tests.benchmarks.policies import AMPLE, SMALL

WORKERS = 8
POLICIES = ("least-loaded", "kv:time")
TIMES = (0, 1, 4)
"""Size of the host cache relative to the caches of all engines."""

LOADS = {SMALL: (1.5, 1.7, 1.8), AMPLE: (2.0, 2.3, 2.5)}
"""Speeds by tokens of cache of each engine."""

HEAD = (
    "| cache each | speed | policy | host cache | cached, % | loaded, % | TTFT mean, s | p99, s |"
)


def replayed(
    trace: Trace, policy: str, tokens: int, speed: float, times: int
) -> tuple[Summary, int]:
    """Return the summary of a replay, and how many tokens were loaded."""
    size = trace.block_size
    engine = msgspec.structs.replace(
        profile.load("gpu-70b"), block_size=size, num_blocks=tokens // size
    )
    memory = times * WORKERS * engine.kv_bytes
    result = Replay(
        trace, SERVED[policy], engine, WORKERS, speed=speed, host_cache_bytes=memory
    ).run()
    return summarize(result.outcomes, result.gaps), result.loaded_tokens


def row(trace: Trace, policy: str, tokens: int, speed: float, times: int) -> str:
    summary, loaded = replayed(trace, policy, tokens, speed, times)
    assert summary.ttft_ms is not None and summary.hit_ratio is not None
    cells = (
        f"{tokens:,}",
        f"{speed:g}",
        policy,
        f"{times} x" if times else "none",
        f"{100 * summary.hit_ratio:.1f}",
        f"{100 * loaded / summary.prompt_tokens:.1f}",
        f"{summary.ttft_ms.mean / 1000:.2f}",
        f"{summary.ttft_ms.p99 / 1000:.1f}",
    )
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("trace", type=Path, help="in Mooncake's format")
    parser.add_argument("--cache", type=int, choices=tuple(LOADS), help="tokens of each engine")
    options = parser.parse_args()
    whole = read(options.trace)
    middle = len(whole.requests) // 2
    half = whole.part(middle, 2 * middle + 1)
    print(f"{100 * infinite_hit_ratio(half):.1f} % of the prompt tokens came before\n\n{HEAD}")
    print("|--:|--:|---|--:|--:|--:|--:|--:|")
    for tokens in [options.cache] if options.cache else LOADS:
        for speed in LOADS[tokens]:
            for policy in POLICIES:
                for times in TIMES:
                    print(row(half, policy, tokens, speed, times), flush=True)


if __name__ == "__main__":
    main()
