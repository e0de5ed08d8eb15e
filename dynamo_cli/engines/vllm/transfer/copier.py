"""Copies between an engine's KV cache and arenas, in a thread, so that no engine step waits."""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from dynamo_cli.engines.vllm.transfer.arena import ArenaRef, RemoteArena
from dynamo_cli.errors import Corrupt, ModelError

Plane = Any
"""A tensor, uint8 [blocks, bytes]: one layer's share of every block."""


class Copy(NamedTuple):
    """Blocks of one request and the slots that they go to or come from.

    Attributes:
        arena: whose slots; None: this engine's own, and the blocks are written there.
    """

    request_id: str
    transfer_id: str
    blocks: list[int]
    slots: list[int]
    arena: ArenaRef | None


@dataclass(slots=True)
class CopyStats:
    """Since the start."""

    copies: Counter[str] = field(default_factory=Counter)
    blocks: Counter[str] = field(default_factory=Counter)
    nbytes: Counter[str] = field(default_factory=Counter)
    nanoseconds: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)


class Copier:
    """One thread that does copies in order.

    Args:
        planes: the engine's cache.
        own: uint8 [slots, slot_bytes]: the engine's own arena; None when it only loads.
    """

    def __init__(self, planes: list[Plane], own: torch.Tensor | None) -> None:
        self._planes = planes
        self._own = own
        self._remote: dict[ArenaRef, RemoteArena] = {}
        self._todo: queue.SimpleQueue[Copy | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[tuple[Copy, bool]] = queue.SimpleQueue()
        self.stats = CopyStats()
        self._thread = threading.Thread(target=self._run, name="kv-copier", daemon=True)
        self._thread.start()

    def submit(self, copy: Copy) -> None:
        """Do this when all before it is done."""
        self._todo.put(copy)

    def done(self) -> list[tuple[Copy, bool]]:
        """What was done since the last call, each with whether it went well."""
        done = []
        while not self._done.empty():
            done.append(self._done.get())
        return done

    def close(self) -> None:
        """End the thread."""
        self._todo.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (copy := self._todo.get()) is not None:
            try:
                self._copy(copy)
            except Corrupt:
                self.stats.failures["arena_gone"] += 1
                self._done.put((copy, False))
            except (RuntimeError, IndexError):  # what torch raises of memory and of indices
                self.stats.failures["copy"] += 1
                self._done.put((copy, False))
            else:
                self._done.put((copy, True))

    def _copy(self, copy: Copy) -> None:
        started = time.perf_counter_ns()
        slots = torch.tensor(copy.slots)
        memory = self._memory(copy.arena)
        offset = 0
        for plane in self._planes:
            size = plane.shape[1]
            share = memory[:, offset : offset + size]
            blocks = torch.tensor(copy.blocks, device=plane.device)
            if copy.arena is None:
                share.index_copy_(0, slots, plane.index_select(0, blocks).cpu())
            else:
                plane.index_copy_(0, blocks, share.index_select(0, slots).to(plane.device))
            offset += size
        if self._planes[0].is_cuda:
            torch.cuda.synchronize()
        kind = "save" if copy.arena is None else "load"
        self.stats.copies[kind] += 1
        self.stats.blocks[kind] += len(copy.blocks)
        self.stats.nbytes[kind] += len(copy.blocks) * offset
        self.stats.nanoseconds[kind] += time.perf_counter_ns() - started

    def _memory(self, ref: ArenaRef | None) -> torch.Tensor:
        if ref is None:
            assert self._own is not None
            return self._own
        if ref not in self._remote:
            slot_bytes = sum(plane.shape[1] for plane in self._planes)
            # One for each life of each prefill worker; earlier lives are not needed any more.
            others = ((known, one) for known, one in self._remote.items() if known.pid != ref.pid)
            self._remote = dict(others)
            self._remote[ref] = RemoteArena(ref, slot_bytes)
        return self._remote[ref].memory


def planes_of(caches: Sequence[torch.Tensor], num_blocks: int) -> list[Plane]:
    """Each layer's cache as blocks of bytes.

    Raises:
        ModelError: a layout that is not one block after the other.
    """
    planes = []
    for cache in caches:
        # Some attention backends keep keys and values in two halves.
        halves = [cache] if cache.shape[0] == num_blocks else list(cache)
        for half in halves:
            if half.shape[0] != num_blocks or not half.is_contiguous():
                raise ModelError(
                    f"--kv-transfer shm cannot handle a KV cache of shape {tuple(cache.shape)}; "
                    "use --kv-transfer nixl, or leave out --prefill-workers."
                )
            planes.append(half.view(torch.uint8).view(num_blocks, -1))
    return planes
