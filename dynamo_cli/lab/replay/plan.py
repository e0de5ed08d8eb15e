"""Replays several policies at several loads, and summarizes the results. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from dynamo_cli.config import FORMER_KV_COSTS, KV_POLICY, PlacementRule
from dynamo_cli.engines.mock.profile import Profile
from dynamo_cli.errors import UsageError
from dynamo_cli.host_cache.state import HostCache
from dynamo_cli.lab.replay.loop import ALWAYS, Replay, Result
from dynamo_cli.lab.replay.peers import PEERS
from dynamo_cli.lab.replay.plot import TtftDistribution, curve
from dynamo_cli.lab.replay.routers import SERVED, Factory
from dynamo_cli.lab.report import Slo, Summary, summarize
from dynamo_cli.lab.trace.trace import Trace, infinite_hit_ratio
from dynamo_cli.plan.resolve_host_cache import check_slots
from dynamo_cli.plan.sizes import size_of

LIMIT, SKEW, PREEMPTIONS = "hit rate without bound, %", "load skew", "preemptions"
TO_PREFILL_LATE = "prefilled locally after all"
ON_ENGINE, IN_HOST = "found on the engine, %", "loaded from the host cache, %"
COMPUTED, DROPPED = "computed, %", "blocks not stored, %"
HOST_CACHE = "--host-cache"
DEFAULT_WORKERS = 8
"""Assumed where neither the trace nor the user says what serves."""

MULTIPLE = re.compile(r"(\d{1,6}(?:\.\d{1,6})?)\s*x")

FACTORIES: dict[str, Factory] = {**SERVED, **PEERS}
FORMER_POLICIES = {
    f"{KV_POLICY}:{old}": f"{KV_POLICY}:{cost}" for old, cost in FORMER_KV_COSTS.items()
}

OnReplayProgress = Callable[[str, float, int], None]
"""Called with the policy, the speed, and the number of its requests that are over."""


class Replayed(NamedTuple):
    """What is kept of the replay of one policy at one load; its outcomes may be a million."""

    summary: Summary
    curve: TtftDistribution


@dataclass(frozen=True, slots=True)
class ReplayPlan:
    """What is replayed.

    Attributes:
        trace: the requests.
        profile: times and sizes of every engine.
        policies: names of policies, keys of `FACTORIES`.
        speeds: factors for the rate of arrivals; each is one load.
        workers, prefill_workers: numbers of them.
        rule: which prompts are sent to prefill workers.
        host_cache_bytes: size of the host cache that all workers share; 0 is none.
        seed: seed of random choices.
        engines: describes the engines, and says what of it is assumed.
    """

    trace: Trace
    profile: Profile
    policies: tuple[str, ...]
    speeds: tuple[float, ...] = (1.0,)
    workers: int = DEFAULT_WORKERS
    prefill_workers: int = 0
    rule: PlacementRule = ALWAYS
    host_cache_bytes: int = 0
    seed: int = 0
    engines: str = ""


def sized(profile: Profile, block_size: int, num_blocks: int | None) -> Profile:
    """Return the profile with another block size.

    Args:
        profile: times and sizes of an engine.
        block_size: tokens per block.
        num_blocks: size of the KV cache; None keeps its size in tokens.

    Raises:
        UsageError: there would be fewer than two blocks.
    """
    count = num_blocks or profile.num_blocks * profile.block_size // block_size
    if count < 2:
        raise UsageError(f"--kv-blocks is at least 2, not {count}.")
    return msgspec.structs.replace(profile, block_size=block_size, num_blocks=count)


def host_cache_bytes(text: str, profile: Profile, workers: int, prefill_workers: int) -> int:
    """Read the size of the host cache: bytes, or a multiple of the caches of all engines.

    Raises:
        UsageError: it is no size, it has no room for a block, or prefill workers cannot use it.
    """
    times = MULTIPLE.fullmatch(text.strip())
    size = int(float(times[1]) * workers * profile.kv_bytes) if times else size_of(HOST_CACHE, text)
    if not size:
        return 0
    check_slots(text, size, profile)
    if prefill_workers:
        raise UsageError(f"{HOST_CACHE} and --prefill-workers cannot be replayed together yet.")
    return size


def named(name: str) -> str:
    """Return the name under which a policy is known now; former names are taken too.

    Raises:
        UsageError: no policy has this name.
    """
    name = FORMER_POLICIES.get(name, name)
    if name not in FACTORIES:
        raise UsageError(f"no policy {name!r}; there are {', '.join(FACTORIES)}.")
    return name


def run(plan: ReplayPlan, slo: Slo, progress: OnReplayProgress) -> list[dict[str, Replayed]]:
    """Return what is kept of each policy, for each load.

    Args:
        plan: what to replay.
        slo: objectives for the goodput.
        progress: called as requests end.
    """
    limit = 100 * infinite_hit_ratio(plan.trace)

    def one(name: str, speed: float) -> Replayed:
        result = _one(plan, name, speed, progress)
        return Replayed(_summary(plan, result, slo, limit), curve(result.outcomes))

    return [{name: one(name, speed) for name in plan.policies} for speed in plan.speeds]


def _one(plan: ReplayPlan, name: str, speed: float, progress: OnReplayProgress) -> Result:
    return Replay(
        plan.trace,
        FACTORIES[name],
        plan.profile,
        plan.workers,
        speed=speed,
        seed=plan.seed,
        prefill_workers=plan.prefill_workers,
        rule=plan.rule,
        host_cache_bytes=plan.host_cache_bytes,
        progress=lambda done: progress(name, speed, done),
    ).run()


def _summary(plan: ReplayPlan, result: Result, slo: Slo, limit: float) -> Summary:
    more = {LIMIT: limit, SKEW: result.skew, PREEMPTIONS: result.preemptions}
    if plan.prefill_workers:
        more[TO_PREFILL_LATE] = result.fallbacks
    if result.host is not None:
        more |= _tiers(result, result.host)
    return summarize(result.outcomes, result.gaps, slo, more=more)


def _tiers(result: Result, host: HostCache) -> dict[str, float]:
    """Where the prompt tokens came from, and how many blocks found no slot."""
    done = [outcome for outcome in result.outcomes if not outcome.error]
    prompt = sum(outcome.prompt_tokens for outcome in done) or 1
    cached = sum(outcome.cached_tokens or 0 for outcome in done)
    stored = host.written + result.dropped_blocks
    return {
        ON_ENGINE: 100 * (cached - result.loaded_tokens) / prompt,
        IN_HOST: 100 * result.loaded_tokens / prompt,
        COMPUTED: 100 * (prompt - cached) / prompt,
        DROPPED: 100 * result.dropped_blocks / stored if stored else 0.0,
    }
