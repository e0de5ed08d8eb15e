"""Resolves the options of the host cache: how large it is, and what it does not go with. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from dynamo_cli.config import DiskCacheConfig, HostCacheConfig
from dynamo_cli.engines.mock.options import sized as simulated_size
from dynamo_cli.engines.mock.profile import DEFAULT_PROFILE, Profile, load
from dynamo_cli.engines.mock.tier import MAX_SLOTS
from dynamo_cli.engines.vllm.options import declared
from dynamo_cli.errors import ResourceError, UsageError
from dynamo_cli.plan.machine import Machine
from dynamo_cli.plan.sizes import size_of, sized
from dynamo_cli.plan.typed import AUTO, MOCK, NO_DISK_CACHE, Typed
from dynamo_cli.serve_config import ServeConfig
from dynamo_cli.units import GIB, KIB, MIB

FLAG = "--host-cache"
MIN_TOKENS = "--host-cache-min-tokens"
DISK = "--disk-cache"
FOR_HAND_OVERS = "prefilled KV blocks go through a host cache (--kv-transfer shm), and "
AUTO_SHARE = 0.5
"""Share of the available memory that ``auto`` takes, less the weights of the model."""

LEAST_BYTES = 64 * MIB
"""With less than this, ``auto`` gives up: hardly a prompt of a usual model would fit."""

SMALLEST_BYTES = 64 * KIB
"""A smaller size is a number without its unit: it has no room for blocks of any model."""

PREFIX_CACHING = ("--enable-prefix-caching", "--no-enable-prefix-caching")
HASHES = "--prefix-caching-hash-algo"
HASHES_ALIKE = ("sha256", "sha256_cbor")
"""Values of `HASHES` with which all engines of a run name a block alike."""

OFFLOADING = "--kv-offloading-size"

HAND_OVER_BYTES, HAND_OVER_BYTES_ON_CPU = 16 * GIB, 2 * GIB
"""Size where nobody has asked for a host cache, but prefilled blocks go through it.

It holds a prompt of 131,072 tokens of a model of 8B. With less memory it is `HAND_OVER_SHARE` of
what is available.
"""

HAND_OVER_SHARE = 0.25


def host_cache(typed: Typed, machine: Machine, kv_transfer: str) -> HostCacheConfig | None:
    """The plan of the host cache; None if there is to be none.

    With ``auto`` the weights of the model still have to be taken off (`sized_by_model`).

    Args:
        kv_transfer: how KV blocks get from prefill to decode workers.

    Raises:
        UsageError: it does not go with other options.
        ResourceError: there is not so much memory.
    """
    disk = disk_cache(typed)
    auto = typed.host_cache == AUTO
    size_bytes = (
        int(machine.available_bytes * AUTO_SHARE) if auto else size_of(FLAG, typed.host_cache)
    )
    hands_over = bool(typed.prefill_workers) and kv_transfer == "shm" and typed.engine != MOCK
    if hands_over and typed.host_cache_min_tokens:
        raise UsageError(
            f"{MIN_TOKENS} does not work with --prefill-workers: prompts of every length "
            "are handed over through the host cache; leave one of them out, or use --kv-transfer "
            "nixl."
        )
    if 0 < size_bytes < SMALLEST_BYTES and not auto:
        raise UsageError(
            f"{FLAG} {typed.host_cache} has no room for KV blocks: without a unit it is a number "
            "of bytes; give a size like 64GiB."
        )
    asked_for = bool(size_bytes)
    if hands_over and not asked_for:
        size_bytes = _hand_over_bytes(machine)
    if not size_bytes:
        for flag, given in ((MIN_TOKENS, typed.host_cache_min_tokens), (DISK, disk)):
            if given:
                raise UsageError(f"{flag} works only with {FLAG}.")
        return None
    for reason in _obstacles(typed, kv_transfer):
        raise UsageError(f"{'' if asked_for else FOR_HAND_OVERS}{FLAG} {reason}")
    if typed.engine == MOCK:
        _check_simulated(typed, size_bytes)
    elif machine.total_bytes and size_bytes > machine.total_bytes:
        raise ResourceError(
            f"{FLAG} {typed.host_cache} is more than the {sized(machine.total_bytes)} of memory "
            f"that this machine or its control group has; {FLAG} {AUTO} takes half of what is "
            "available."
        )
    return HostCacheConfig(size_bytes, min_tokens=typed.host_cache_min_tokens, disk=disk)


def disk_cache(typed: Typed) -> DiskCacheConfig | None:
    """The plan of the tier on disk; None if there is to be none.

    Raises:
        UsageError: it is not a folder and a size, or there can be none.
    """
    if typed.disk_cache == NO_DISK_CACHE:
        return None
    folder, _, size = typed.disk_cache.rpartition(":")
    if not folder:
        raise UsageError(
            f"{DISK} takes a folder and a size, like /var/cache/kv:200GiB; not "
            f"{typed.disk_cache!r}."
        )
    size_bytes = size_of(DISK, size)
    if size_bytes < SMALLEST_BYTES:
        raise UsageError(
            f"{DISK} {typed.disk_cache} has no room for KV blocks: without a unit the size is a "
            "number of bytes; give one like 200GiB."
        )
    if typed.engine == MOCK:
        raise UsageError(f"{DISK} needs real engines: simulated ones have no KV blocks to keep.")
    return DiskCacheConfig(folder, size_bytes)


def _check_simulated(typed: Typed, size_bytes: int) -> None:
    profile = simulated_size(load(typed.engine_profile or DEFAULT_PROFILE), typed.engine_args)
    check_slots(typed.host_cache, size_bytes, profile)


def check_slots(text: str, size_bytes: int, profile: Profile) -> None:
    """Check the size of a host cache of simulated engines, which keep nothing in its memory.

    So only the number of slots is limited.

    Args:
        text: the size as it was typed.
        size_bytes: what it means.
        profile: of the engines.

    Raises:
        UsageError: no block fits, or too many do.
    """
    if size_bytes < profile.slot_bytes:
        raise UsageError(
            f"{FLAG} {text} has no room for a block of {profile.block_size} tokens of simulated "
            f"engines, which takes {sized(profile.slot_bytes)}."
        )
    if (slots := size_bytes // profile.slot_bytes) > MAX_SLOTS:
        raise UsageError(
            f"{FLAG} {text} has room for {slots:,} blocks of simulated engines, which have at most "
            f"{MAX_SLOTS:,}: give less, or a larger --block-size."
        )


def _hand_over_bytes(machine: Machine) -> int:
    most = HAND_OVER_BYTES if machine.gpus else HAND_OVER_BYTES_ON_CPU
    if not machine.available_bytes:
        return most
    return min(most, int(machine.available_bytes * HAND_OVER_SHARE))


def _obstacles(typed: Typed, kv_transfer: str) -> Iterator[str]:
    """Why there can be no host cache, as the rest of a sentence."""
    if typed.prefill_workers:
        if typed.engine == MOCK:
            yield "does not work with simulated prefill workers, which do not use it."
        if kv_transfer == "nixl":
            yield "does not work with --kv-transfer nixl, which does not use it; use shm."
        if typed.prefill_tp != typed.worker_tp:
            yield (
                f"needs equal --prefill-tp ({typed.prefill_tp}) and --worker-tp "
                f"({typed.worker_tp}), since they split KV blocks."
            )
    given = declared.parse(typed.engine_args)
    switches = [one.words[0] for one in given if one.name in PREFIX_CACHING]
    if switches and switches[-1] == PREFIX_CACHING[1]:
        yield f"extends prefix caches, which {PREFIX_CACHING[1]} turns off; leave one of them out."
    algorithms = [one.values[0] for one in given if one.name == HASHES]
    if algorithms and algorithms[-1] not in HASHES_ALIKE:
        yield (
            f"needs hashes that are equal in all engines: {HASHES} {' or '.join(HASHES_ALIKE)}, "
            f"not {algorithms[-1]}."
        )
    if any(one.name == OFFLOADING for one in given):
        yield f"replaces {OFFLOADING}, which each engine has for itself; leave that out."


def available_beside(cache: HostCacheConfig | None, machine: Machine) -> int:
    """Available memory in bytes that the host cache leaves to the engines."""
    taken = cache.size_bytes if cache is not None else 0
    return max(0, machine.available_bytes - taken)


def sized_by_model(config: ServeConfig, typed: Typed, weights_bytes: int) -> ServeConfig:
    """The plan with the final size of the host cache: ``auto`` leaves room for the weights.

    Args:
        weights_bytes: size of the files of the weights; 0 if they are not here yet.

    Raises:
        ResourceError: ``auto`` finds too little memory.
    """
    if config.host_cache is None or typed.host_cache != AUTO:
        return config
    on_cpu = not any((*config.engine_devices, *config.prefill_devices))
    engines = _most_engines(config)
    # Engines on GPUs read the same files; those on a CPU each keep the weights in memory.
    size_bytes = config.host_cache.size_bytes - weights_bytes * (engines if on_cpu else 1)
    if size_bytes < LEAST_BYTES:
        raise ResourceError(
            f"{FLAG} {AUTO} finds no memory for KV blocks: half of what is available is "
            f"{sized(config.host_cache.size_bytes)}, and the model needs "
            f"{sized(weights_bytes)} for each engine. Free some memory, or give a size."
        )
    return replace(config, host_cache=replace(config.host_cache, size_bytes=size_bytes))


def _most_engines(config: ServeConfig) -> int:
    """The largest number of engines on one machine."""
    if config.cluster is None:
        return len(config.engine_devices) + len(config.prefill_devices)
    return max(Counter([*config.cluster.workers, *config.cluster.prefill_workers]).values())


def warnings(config: ServeConfig, machine: Machine) -> list[str]:
    """Warnings about a host cache that can be made, but may not fit."""
    cache, found = config.host_cache, []
    if cache is None or config.engine.simulation is not None:
        return []
    available_bytes, where = machine.available_bytes, ""
    if config.cluster is not None:
        smallest = min(config.cluster.nodes, key=lambda node: node.memory_bytes)
        available_bytes, where = smallest.memory_bytes, f" on {smallest.name}"
    if available_bytes and cache.size_bytes > available_bytes:
        found.append(
            f"{FLAG} takes {sized(cache.size_bytes)} as it fills, and {sized(available_bytes)} "
            f"of memory are available{where} now; {FLAG} {AUTO} takes half of that."
        )
    if cache.disk is not None and cache.disk.size_bytes <= cache.size_bytes:
        found.append(
            f"{DISK} of {sized(cache.disk.size_bytes)} helps little: it is no larger than the "
            f"{sized(cache.size_bytes)} of {FLAG}, whose blocks it has too."
        )
    return found
