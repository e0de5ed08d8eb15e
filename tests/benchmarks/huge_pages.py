"""What huge pages would bring to the memory of the host cache: copies in and out, in turns.

    python -m tests.benchmarks.huge_pages [--size-mib 1024] [--rounds 9]

In each round all kinds of memory are made anew and used as an engine on a CPU does it: blocks of
one layer at a time are copied to slots all over the memory, and back. The first store to each slot
also takes the memory from the kernel. A memfd has huge pages only where the administrator has
reserved some, or has set shmem_enabled to `advise`; so their effect is measured with private
memory, which has them with `madvise` on most systems. Prints Markdown: GB per second of CPU time as
medians, and their ratios within a round as median and range.
"""

from __future__ import annotations

import argparse
import mmap
import os
import random
import re
import statistics
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dynamo_cli.host.memory_file import MemoryFile, map_shared
from dynamo_cli.units import MIB

SHMEM = Path("/sys/kernel/mm/transparent_hugepage/shmem_enabled")
LAYERS = 24
PARTS = {"32 KiB": 32 << 10, "128 KiB": 128 << 10}
"""Bytes of one layer of a block: of a small model, and of one with eight billion parameters."""

AT_ONCE = 16
"""Blocks of one copy."""

MEMFD, SMALL, HUGE = "memfd, 4 KiB pages", "private, 4 KiB pages", "private, huge pages"
KINDS = (MEMFD, SMALL, HUGE)
Rows = npt.NDArray[np.int8]
STEPS = ("first store", "store", "load")


def measure(kind: str, size_bytes: int, part: int, seed: int) -> tuple[float, ...]:
    """GB per second of CPU time of each of `STEPS`."""
    mapped = _mapped(kind, size_bytes)
    slots = size_bytes // (part * LAYERS)
    host: Rows = np.frombuffer(mapped, np.int8, slots * part * LAYERS).reshape(slots, LAYERS, part)
    engine: Rows = np.ones((LAYERS, AT_ONCE, part), np.int8)
    order = list(range(slots))
    random.Random(seed).shuffle(order)
    chosen = [np.array(order[at : at + AT_ONCE]) for at in range(0, slots, AT_ONCE)]
    rates = tuple(
        host.nbytes / _copy(host, engine, chosen, store=store) / 1e9
        for store in (True, True, False)
    )
    if kind == HUGE:
        assert _huge_bytes() >= size_bytes // 2, "the kernel gave no huge pages"
    del host
    mapped.close()
    return rates


def _mapped(kind: str, size_bytes: int) -> mmap.mmap:
    if kind == MEMFD:
        memory = MemoryFile("benchmark", size_bytes)
        mapped = map_shared(memory.path)
        memory.close()
        return mapped
    mapped = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    mapped.madvise(mmap.MADV_HUGEPAGE if kind == HUGE else mmap.MADV_NOHUGEPAGE)
    return mapped


def _copy(host: Rows, engine: Rows, chosen: list[npt.NDArray[np.int64]], *, store: bool) -> float:
    """Copy to all slots or from there, as `CpuCopies` does; returns seconds of CPU time."""
    began = time.process_time()
    for slots in chosen:
        for layer in range(LAYERS):
            if store:
                host[slots, layer] = engine[layer, : len(slots)]
            else:
                engine[layer, : len(slots)] = host[slots, layer]
    return time.process_time() - began


def _huge_bytes() -> int:
    """Private memory of this process that is in huge pages."""
    found = re.findall(r"^AnonHugePages:\s+(\d+) kB", Path("/proc/self/smaps").read_text(), re.M)
    return 1024 * sum(map(int, found))


def table(rounds: dict[str, list[tuple[float, ...]]]) -> str:
    """The figures of both kinds, and their ratios."""
    lines = []
    for kind, rates in rounds.items():
        medians = (statistics.median(column) for column in zip(*rates, strict=True))
        lines.append(f"| {kind} | {' | '.join(f'{value:.2f}' for value in medians)} |")
    cells = []
    for step in range(len(STEPS)):
        pairs = zip(rounds[SMALL], rounds[HUGE], strict=True)
        ratios = [huge[step] / small[step] for small, huge in pairs]
        cells.append(f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    return "\n".join([*lines, f"| {HUGE} / {SMALL} | {' | '.join(cells)} |"])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--size-mib", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, shmem {SHMEM.read_text()}")
    for name, part in PARTS.items():
        rounds: dict[str, list[tuple[float, ...]]] = {kind: [] for kind in KINDS}
        for number in range(options.rounds):
            turn = number % len(KINDS)
            for kind in KINDS[turn:] + KINDS[:turn]:
                rounds[kind].append(measure(kind, options.size_mib * MIB, part, number))
        print(f"\n| {name} a layer, GB per CPU second | {' | '.join(STEPS)} |\n|---{'|--:' * 3}|")
        print(table(rounds), flush=True)


if __name__ == "__main__":
    main()
