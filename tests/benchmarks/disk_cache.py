"""Measures the disk below the host cache: its speed, and what it costs questions that need nothing.

python -m tests.benchmarks.disk_cache FOLDER [--block-mib 2] [--blocks 256] [--rounds 5]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

from dynamo_cli.config import DiskCacheConfig, HostCacheConfig
from dynamo_cli.host.memory_file import MemoryFile
from dynamo_cli.host_cache.disk import DiskJob, Done
from dynamo_cli.host_cache.disk_file import DiskFile
from dynamo_cli.host_cache.disk_tier import DiskTier
from dynamo_cli.host_cache.state import HostCache
from dynamo_cli.kv.holdings import Holdings
from dynamo_cli.topology import ProcessId, Role
from dynamo_cli.units import MIB

ONE = ProcessId(Role.WORKER, 0)
KEYS, TIMES = 500, 200
"""Blocks of a prompt, and questions of a round."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--block-mib", type=float, default=2)
    parser.add_argument("--blocks", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    _speeds(options.folder, int(options.block_mib * MIB), options.blocks, options.rounds)
    _questions(options.folder, options.rounds)


def _speeds(folder: str, block_bytes: int, blocks: int, rounds: int) -> None:
    memory = MemoryFile("benchmark", blocks * block_bytes)
    file = DiskFile(folder, memory.path, block_bytes)
    for slot in range(blocks):
        file._memory[slot * block_bytes : (slot + 1) * block_bytes] = bytes([slot % 251]) * (
            block_bytes
        )
    found: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(rounds):
        sums: dict[int, int] = {}
        for write in (True, False):
            began = time.perf_counter()
            jobs = [DiskJob(write, slot, slot, slot, sums.get(slot, 0)) for slot in range(blocks)]
            for done in _run(file, jobs):
                assert not done.failure, done.failure
                sums[done.job.slot] = done.checksum
            found[write].append(blocks * block_bytes / (time.perf_counter() - began) / 1e9)
    how = "direct" if file.direct else "through the page cache"
    for write, speeds in found.items():
        print(f"{'writes' if write else 'reads'}, {how}: {_spread(speeds)} GB/s")
    file.close(wait=True)
    memory.close()


def _run(file: DiskFile, jobs: list[DiskJob]) -> list[Done]:
    for job in jobs:
        file.begin(job)
    ended: list[Done] = []
    while len(ended) < len(jobs):
        ended += file.take_done()
        time.sleep(0.001)
    return ended


def _questions(folder: str, rounds: int) -> None:
    """A prompt of which nothing is in the cache, with and without a disk that holds others."""
    plain, tiered = _asked(None), _asked(folder)
    ratios, times = [], []
    for _ in range(rounds):
        first, second = _us(plain), _us(tiered)
        ratios.append(second / first)
        times.append(second - first)
    print(f"a question for {KEYS} blocks that are nowhere: {_spread(times)} us of CPU more")
    print(f"  with a disk; ratio {_spread(ratios)}")


def _asked(folder: str | None) -> Callable[[int], None]:
    slot_bytes, slots = 4096, 2_000
    memory = MemoryFile("benchmark", slots * slot_bytes)
    disk = DiskCacheConfig(folder, 4 * slots * slot_bytes) if folder else None
    config = HostCacheConfig(slots * slot_bytes, memory.path, disk=disk)
    reach = Holdings(0) if disk else None
    cache = HostCache(config.size_bytes, time.monotonic_ns, reach)
    cache.all_linked()
    cache.open(ONE, slot_bytes, "flat")
    below = None
    if reach is not None:
        below = DiskTier(config, cache, reach, time.monotonic_ns, lambda _: None)
        below.opened()
    for first in range(0, slots, 100):
        lent = cache.lend()[ONE] if not first else sorted(cache._engines[ONE].lent)
        cache.lend()
        names = list(range(first + 1, first + 101))
        keys = [name.to_bytes(36) for name in names]
        new = cache.wrote(ONE, keys, lent[:100], names, [0, *names[:-1]])
        if below is not None:
            below.disk.stored(new)
            while below.disk._queue or below.disk._copies:
                below.take_done()
                below.begin()
    keys = [(1 << 40 | name).to_bytes(36) for name in range(KEYS)]

    def ask(number: int) -> None:
        found = cache.find(ONE, str(number), keys)
        assert found is not None
        if below is not None:
            assert not below.disk.search(ONE, str(number), keys, found)
        cache.read(ONE, str(number))

    return ask


def _us(ask: Callable[[int], None]) -> float:
    began = time.thread_time()
    for number in range(TIMES):
        ask(number)
    return (time.thread_time() - began) / TIMES * 1e6


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.3g} ({min(values):.3g} to {max(values):.3g})"


if __name__ == "__main__":
    main()
