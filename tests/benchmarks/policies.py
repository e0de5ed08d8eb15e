"""Compares routing policies in replays: where kv routing wins, and where it does not.

    python -m tests.benchmarks.policies TRACE [--half first|second] [--only NAME] [--plot FOLDER]

TRACE is a recorded trace in Mooncake's format. Its first half was used to develop the default cost,
and the figures are from its second half. Besides, there is random traffic
(`tests.benchmarks.traffic`). The engines are simulated with the built-in profiles, so that the
figures are the same on every machine. "pooled" is not a policy but a bound: all workers share one
cache.

Prints Markdown: for each traffic and load the figures of every policy, then the ratios of the
default to the best of the published policies, and to least-loaded.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from dynamo_cli.engines.mock import profile
from dynamo_cli.lab.replay.loop import Replay, Result
from dynamo_cli.lab.replay.peers import PEERS
from dynamo_cli.lab.replay.routers import SERVED
from dynamo_cli.lab.report import Slo, Summary, summarize
from dynamo_cli.lab.trace.reading import read
from dynamo_cli.lab.trace.trace import Trace, infinite_hit_ratio
from tests.benchmarks import traffic

PUBLISHED = ("round-robin", "least-loaded", "vllm-dp", "sglang", "kv:shares", "kv:blocks")
OURS, ABLATION, BOUND = "kv:time", "mooncake", "pooled"
POLICIES = (*PUBLISHED, ABLATION, OURS, BOUND)
REQUESTS = 4000
"""Number of requests of random traffic."""

SMALL, AMPLE = 448_000, 2_048_000
"""Tokens in the cache of a worker: as in the profile of four GPUs, and many more."""

PICTURED = ("8 workers", "8 workers, ample cache")
BUNCH_S = 20.0
"""In bunched traffic, all requests of this many seconds come at the same time."""


@dataclass(frozen=True, slots=True)
class Case:
    """What is replayed.

    Attributes:
        name: name for people and for ``--only``.
        trace: makes the traffic.
        engine: name of a built-in profile.
        cache_tokens: size of the cache of each worker.
        speeds: the loads, as factors of the rate of arrivals.
    """

    name: str
    trace: Callable[[], Trace]
    engine: str
    cache_tokens: int
    speeds: tuple[float, ...]
    workers: int = 8

    def run(self, trace: Trace, speed: float) -> dict[str, Result]:
        """Replay every policy at this load."""
        size = trace.block_size
        engine = msgspec.structs.replace(
            profile.load(self.engine), block_size=size, num_blocks=self.cache_tokens // size
        )
        routers = SERVED | PEERS
        return {
            name: Replay(trace, routers[name], engine, self.workers, speed=speed).run()
            for name in POLICIES
        }


def recorded(half: Trace) -> Iterator[Case]:
    """Return the cases of the trace, by number of workers and size of the cache. Their loads go
    from idle to beyond saturation, as found with the first half.
    """
    same, bunched = (lambda: half), (lambda: traffic.bunched(half, BUNCH_S))
    yield Case("8 workers", same, "gpu-70b", SMALL, (0.25, 1.0, 1.5, 1.7, 1.8))
    yield Case("8 workers, ample cache", same, "gpu-70b", AMPLE, (1.0, 2.0, 2.3, 2.5))
    yield Case("8 workers, bunched", bunched, "gpu-70b", SMALL, (1.5,))
    yield Case("4 workers", same, "gpu-70b", SMALL, (0.75, 0.85), workers=4)
    yield Case("32 workers", same, "gpu-70b", SMALL, (6.0, 6.8), workers=32)


LOADS = {
    "chats over 4 system prompts": (1.0, 4.0),
    "one hot system prompt": (4.0, 6.0),
    "agents that loop": (1.0, 3.0),
    "chats without a system prompt": (1.0, 2.0),
    "questions about documents": (3.0, 5.0),
    "nothing shared": (1.0, 2.5),
}
"""Speeds of random traffic: a moderate load, and approximately the most that workers can serve."""


def made() -> Iterator[Case]:
    """Return the cases of random traffic, on smaller engines."""
    for name, speeds in LOADS.items():
        yield Case(name, lambda name=name: traffic.make(name, REQUESTS), "gpu-8b", 256_000, speeds)


# -- figures ---------------------------------------------------------------------------------

Load = dict[str, Summary]
"""Figures by policy."""

SKEW = "skew"
FIGURES: dict[str, Callable[[Summary], float]] = {
    "cached, %": lambda one: 100 * (one.hit_ratio or 0),
    "TTFT mean, s": lambda one: _ms(one.ttft_ms, "mean"),
    "p50": lambda one: _ms(one.ttft_ms, "p50"),
    "p99": lambda one: _ms(one.ttft_ms, "p99"),
    "E2E mean, s": lambda one: _ms(one.e2e_ms, "mean"),
    SKEW: lambda one: one.more[SKEW],
}
MEAN, TAIL, WHOLE = "TTFT mean, s", "p99", "E2E mean, s"


def _ms(spread: Any, name: str) -> float:
    return float(getattr(spread, name)) / 1000


def table(load: Load) -> str:
    lines = [_row("", *FIGURES), "|---|" + "--:|" * len(FIGURES)]
    for name, summary in load.items():
        lines.append(_row(name, *(f"{figure(summary):.4g}" for figure in FIGURES.values())))
    return "\n".join(lines)


def ratios(load: Load) -> dict[str, float]:
    """Return the ratios of the default to the best published figure, and to the mean of
    least-loaded."""

    def best(figure: str) -> float:
        return min(FIGURES[figure](load[name]) for name in PUBLISHED)

    ours = load[OURS]
    found = {f"{name} / best": FIGURES[name](ours) / best(name) for name in (MEAN, TAIL, WHOLE)}
    blind = FIGURES[MEAN](load["least-loaded"])
    bound = FIGURES["cached, %"](load[BOUND])
    found[f"{MEAN} / least-loaded"] = FIGURES[MEAN](ours) / blind
    found["cached / pooled"] = FIGURES["cached, %"](ours) / bound if bound else 1.0
    return found


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def replay(case: Case, folder: Path | None) -> list[tuple[float, dict[str, float]]]:
    """Replay a case and print all its loads."""
    trace = case.trace()
    limit = 100 * infinite_hit_ratio(trace)
    print(
        f"\n### {trace.name}: {case.name}\n\n{len(trace.requests)} requests, "
        f"{case.workers} workers ({case.engine}), {case.cache_tokens} tokens of cache each; "
        f"{limit:.1f} % of the prompt tokens came before"
    )
    found, results = [], []
    for speed in case.speeds:
        results.append(case.run(trace, speed))
        load = {name: _summary(result) for name, result in results[-1].items()}
        print(f"\nspeed {speed:g}\n\n{table(load)}", flush=True)
        found.append((speed, ratios(load)))
    if folder and case.name in PICTURED:
        _picture(case, results, folder)
    return found


def _summary(result: Result) -> Summary:
    return summarize(result.outcomes, result.gaps, Slo(), more={SKEW: result.skew})


def _picture(case: Case, results: list[dict[str, Result]], folder: Path) -> None:
    from dynamo_cli.lab.replay import plot

    shown = [
        {name: plot.curve(load[name].outcomes) for name in (*PUBLISHED[1:], OURS, BOUND)}
        for load in results
    ]
    path = folder / f"routing-{case.name.replace(',', '').replace(' ', '-')}.svg"
    plot.draw(path, case.name, case.speeds[-3:], shown[-3:])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("trace", type=Path, help="in Mooncake's format")
    parser.add_argument("--half", choices=("first", "second"), default="second")
    parser.add_argument("--only", default="", help="cases whose name has this in it")
    parser.add_argument("--plot", type=Path, metavar="FOLDER", help="write pictures there")
    options = parser.parse_args()
    whole = read(options.trace)
    middle = len(whole.requests) // 2
    half = whole.part(0, middle) if options.half == "first" else whole.part(middle, 2 * middle + 1)
    began, lines = time.monotonic(), []
    for case in (*recorded(half), *made()):
        if options.only in case.name:
            for speed, found in replay(case, options.plot):
                cells = (f"{value:.2f}" for value in found.values())
                lines.append((_row(case.name, f"{speed:g}", *cells), found))
    print(f"\n### What {OURS} makes of the best published policy\n")
    print(_row("", "speed", *lines[0][1]))
    print("|---|" + "--:|" * (1 + len(lines[0][1])))
    print("\n".join(line for line, _ in lines))
    print(f"\n{options.half} half, {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
