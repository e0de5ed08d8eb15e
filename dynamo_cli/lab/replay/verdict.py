"""Says in one line which router mode to use. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from dynamo_cli.lab.report import Summary

PLAINEST = ("least-loaded", "round-robin", "random")
"""The first of these that was replayed is the baseline."""

WORTH_IT = 0.05
"""Relative differences of time below this are not worth another mode."""

NEAR = f"{100 * WORTH_IT:.0f} %"

FEW, ENOUGH = 100, 1000
"""With fewer requests than the first there is no recommendation; with fewer than the second it is
only a hint, because less than ten requests are slower than the p99."""

Loads = Sequence[Mapping[str, Summary]]
"""For each load, the summary of each policy."""


def verdict(loads: Loads, served: Sequence[str]) -> str:
    """Say which policy is best over all loads, and by how much.

    Args:
        loads: the summaries.
        served: names of the policies that can be served.
    """
    tried = [name for name in loads[0] if name in served]
    if len(tried) < 2:
        return "Only one of these policies can be used by a server: name a second one to compare."
    count = min(load[name].requests for load in loads for name in tried)
    if not count:
        return "No advice is possible: a policy answered no request; see the column errors."
    plain = next((name for name in PLAINEST if name in tried), tried[0])
    scores = {name: _ratio(loads, name, plain) for name in tried}
    best = min(tried, key=lambda name: (scores[name], name != plain))
    worst = max(tried, key=scores.__getitem__)
    if count < FEW:
        return _too_few(count, best, plain, _part(loads, best, plain, "mean"))
    return _advice(loads, scores, best, worst, plain) + _hint(count)


def _too_few(count: int, best: str, plain: str, ratio: float) -> str:
    found = (
        f"here the mean TTFT of {best} is {ratio:.2f} times that of {plain}"
        if best != plain
        else f"here none has a lower TTFT than {plain}"
    )
    return f"{count} requests are too few to choose by; {found}. Record {ENOUGH:,} or more."


def _hint(count: int) -> str:
    if count >= ENOUGH:
        return ""
    slowest = count - math.ceil(0.99 * count) + 1
    return (
        f" This is a hint from {count} requests: their p99 TTFT depends on the {slowest} slowest. "
        f"Record {ENOUGH:,} or more."
    )


def _advice(loads: Loads, scores: Mapping[str, float], best: str, worst: str, plain: str) -> str:
    if scores[best] > 1 - WORTH_IT:
        return _no_matter(plain, worst, scores[worst])
    return (
        f"Use {_option(best)}: mean TTFT {_part(loads, best, plain, 'mean'):.2f} and p99 TTFT "
        f"{_part(loads, best, plain, 'p99'):.2f} times those of {plain}, hit rate "
        f"{_hits(loads, best):.1f} % instead of {_hits(loads, plain):.1f} %."
    )


def _no_matter(plain: str, worst: str, score: float) -> str:
    if score < 1 + WORTH_IT:
        return (
            f"It does not matter: in mean and p99 TTFT taken together, all are within {NEAR} of "
            f"{plain}."
        )
    return (
        f"Use {_option(plain)}: in mean and p99 TTFT taken together, none is more than {NEAR} "
        f"faster, and {worst} takes {score:.2f} times as long."
    )


def _option(name: str) -> str:
    policy, _, cost = name.partition(":")
    return f"--router {policy}" + (f" --kv-cost {cost}" if cost else "")


def _ratio(loads: Loads, name: str, plain: str) -> float:
    """Ratio of times to the first token to the baseline; mean and p99 weigh the same."""
    parts = [_part(loads, name, plain, which) for which in ("mean", "p99")]
    return math.sqrt(parts[0] * parts[1])


def _part(loads: Loads, name: str, plain: str, which: str) -> float:
    """Geometric mean over the loads of the ratio of one statistic to the baseline."""
    logs = []
    for load in loads:
        one, other = load[name].ttft_ms, load[plain].ttft_ms
        if one is not None and other is not None:
            logs.append(math.log(getattr(one, which) / getattr(other, which)))
    return math.exp(sum(logs) / len(logs)) if logs else 1.0


def _hits(loads: Loads, name: str) -> float:
    """Mean hit rate over the loads, per cent."""
    return 100 * sum(load[name].hit_ratio or 0.0 for load in loads) / len(loads)
