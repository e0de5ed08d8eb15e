"""Which engines a replay simulates: named by the user, told by the record, or assumed. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from dynamo_cli.engines.mock.profile import Profile
from dynamo_cli.lab.replay import plan as plans
from dynamo_cli.lab.trace.trace import Trace
from dynamo_cli.messages.set_up import SetUp
from dynamo_cli.plan.sizes import sized as sized_bytes

NOT_SAID = SetUp()


@dataclass(frozen=True, slots=True)
class Asked:
    """What the user says about the engines; None and empty where nothing is said.

    Attributes:
        workers, prefill_workers: numbers of them.
        profile: name of a profile.
        kv_blocks: KV blocks of each engine.
        host_cache: size of the host cache as it was typed.
    """

    workers: int | None = None
    prefill_workers: int | None = None
    profile: str = ""
    kv_blocks: int | None = None
    host_cache: str = ""


@dataclass(frozen=True, slots=True)
class ReplayEngines:
    """The engines of a replay.

    Attributes:
        workers, prefill_workers: numbers of them.
        profile: times and sizes of each.
        host_cache_bytes: size of the host cache; 0 is none.
        words: describes them, and says what of it is assumed.
    """

    workers: int
    prefill_workers: int
    profile: Profile
    host_cache_bytes: int
    words: str


def engines(asked: Asked, trace: Trace, profile: Profile) -> ReplayEngines:
    """Choose the engines for a trace.

    Args:
        asked: what the user says, which comes first.
        trace: its record comes second.
        profile: the profile that the user named, or the default one.

    Raises:
        UsageError: a size is out of bounds.
    """
    told = trace.set_up or NOT_SAID
    workers = asked.workers or told.workers or plans.DEFAULT_WORKERS
    prefill = told.prefill_workers if asked.prefill_workers is None else asked.prefill_workers
    blocks = asked.kv_blocks or told.num_blocks * told.block_size // trace.block_size or None
    sized = plans.sized(_limited(profile, told), trace.block_size, blocks)
    memory = asked.host_cache or ("0" if prefill else str(told.host_cache_bytes))
    shared = plans.host_cache_bytes(memory, sized, workers, prefill)
    words = _words(asked, told, workers, prefill, sized)
    words += f"; host cache of {sized_bytes(shared)}" if shared else ""
    return ReplayEngines(workers, prefill, sized, shared, words)


def _limited(profile: Profile, told: SetUp) -> Profile:
    most = min(told.max_num_seqs, profile.max_num_batched_tokens) or profile.max_num_seqs
    return msgspec.structs.replace(profile, max_num_seqs=most)


def _words(asked: Asked, told: SetUp, workers: int, prefill: int, profile: Profile) -> str:
    count = f"{workers} engine{'s' * (workers != 1)}"
    if prefill:
        count += f" and {prefill} for prefill"
    like = f"like {profile.name}"
    if told.workers and not (asked.workers and asked.profile):
        sizes = f"{profile.num_blocks:,} KV blocks of {profile.block_size} tokens"
        source = "as named" if asked.workers else "as recorded"
        speed = "their speed is" if asked.profile else "their speed is assumed to be"
        return f"{count} with {sizes}, {source}; {speed} that of {profile.name}"
    if asked.workers and asked.profile:
        return f"{count} {like}"
    if asked.workers:
        return f"{count}, assumed to be {like}; --profile names another"
    options = "--workers says" if asked.profile else "--workers and --profile say"
    return f"assumed: {count} {like}; {options} otherwise"
