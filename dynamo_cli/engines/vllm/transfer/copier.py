"""Copies between an engine's KV cache and arenas, in a thread, so that no engine step waits.

A save begins when its prompt is complete. The decode side hears of it at once, not when the copy
is done: its own copier waits for the stamps, which takes less than a message. So the hand-over
does not wait for the next step of an engine that may be busy with another long prompt.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from dynamo_cli.engines.vllm.transfer.arena import (
    GONE,
    LOST,
    NOT_WRITTEN,
    TAKEN_BACK,
    WRITING,
    WRITTEN,
    Arena,
    ArenaRef,
    RemoteArena,
    Unreadable,
)
from dynamo_cli.engines.vllm.transfer.planes import WORD_BYTES, Planes
from dynamo_cli.host import vital
from dynamo_cli.units import SECOND_NS

SAVE, LOAD = "save", "load"
FAILED = "copy"
WAIT_S = 0.0002
"""Between two looks at blocks that are not written yet."""

WAIT_LIMIT_NS = 5 * SECOND_NS
"""A save takes milliseconds, and those before it in its thread as long."""

TIDY_S = 10.0
"""So long without a copy, and it looks which arenas it need not map any more."""

BATCH_BYTES = 32 * 1024 * 1024
"""At a time: what copies take on a CUDA device, and of pinned memory."""


class Copy(NamedTuple):
    """Blocks of one request and the slots that they go to or come from.

    Attributes:
        blocks, slots: of equal length.
        base: over which the transfer's stamps are.
        arena: whose slots; None: this engine's own, and the blocks are written there.
        since_ns: when it was asked for.
    """

    request_id: str
    transfer_id: str
    blocks: list[int]
    slots: list[int]
    base: int
    arena: ArenaRef | None
    since_ns: int

    @property
    def kind(self) -> str:
        return SAVE if self.arena is None else LOAD


class Done(NamedTuple):
    """A copy that is over; `failed` says why when nothing came of it."""

    copy: Copy
    nanoseconds: int
    failed: str = ""


@dataclass(slots=True)
class CopyStats:
    """Since the start, by kind (`SAVE`, `LOAD`) or reason."""

    copies: Counter[str] = field(default_factory=Counter)
    nbytes: Counter[str] = field(default_factory=Counter)
    nanoseconds: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)

    def count(self, done: Done, slot_bytes: int) -> None:
        if done.failed:
            self.failures[done.failed] += 1
            return
        kind = done.copy.kind
        self.copies[kind] += 1
        self.nbytes[kind] += len(done.copy.blocks) * slot_bytes
        self.nanoseconds[kind] += done.nanoseconds


class Copier:
    """One thread that does copies in order.

    Args:
        planes: the engine's cache.
        arena: the engine's own; None when it only loads.

    Attributes:
        stats: of the copies that `done` has told of.
    """

    def __init__(self, planes: Planes, arena: Arena | None) -> None:
        self.stats = CopyStats()
        self._planes = planes
        self._arena = arena
        self._remote: dict[ArenaRef, RemoteArena] = {}
        self._cache = _Cache(planes)
        self._todo: queue.SimpleQueue[Copy | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[Done] = queue.SimpleQueue()
        self._news = threading.Event()
        self._thread = threading.Thread(target=self._run, name="kv-copier", daemon=True)
        self._thread.start()

    def submit(self, copy: Copy) -> None:
        """Do this when all before it is done."""
        self._todo.put(copy)

    def done(self) -> Iterator[Done]:
        """What is over since the last call."""
        self._news.clear()
        while not self._done.empty():
            done = self._done.get()
            self.stats.count(done, self._planes.slot_bytes)
            yield done

    def wait(self, limit_s: float) -> None:
        """Until there is something that `done` has not told of, or so long."""
        self._news.wait(limit_s)

    def close(self) -> None:
        """End the thread when all before is done; loads that wait for their blocks are given up."""
        self._todo.put(None)
        self._thread.join()

    @vital.callback
    def _run(self) -> None:
        with self._cache.stream():
            while (copy := self._next()) is not None:
                done = self._save(copy) if copy.arena is None else self._load(copy, copy.arena)
                if done is not None:
                    self._done.put(done)
                    self._news.set()
                else:
                    # Others may be complete already, of another prefill worker.
                    time.sleep(WAIT_S)
                    self._todo.put(copy)

    def _next(self) -> Copy | None:
        while True:
            try:
                return self._todo.get(timeout=TIDY_S)
            except queue.Empty:
                self._forget_the_dead()

    def _save(self, copy: Copy) -> Done:
        assert self._arena is not None
        started = time.perf_counter_ns()
        stamps, slots = self._arena.stamps, torch.tensor(copy.slots)
        stamps[slots] = copy.base + WRITING
        try:
            for blocks, rows in _batches(copy, self._arena.memory):
                self._cache.read(blocks, rows)
        except (RuntimeError, IndexError):  # what torch raises of memory and of indices
            stamps[slots] = copy.base + LOST
            return Done(copy, 0, FAILED)
        stamps[slots] = copy.base + WRITTEN
        return Done(copy, time.perf_counter_ns() - started)

    def _load(self, copy: Copy, ref: ArenaRef) -> Done | None:
        """None: the blocks are not written yet."""
        started = time.perf_counter_ns()
        try:
            arena = self._mapped(ref)
            if not _written(arena, copy):
                return None
            for blocks, rows in _batches(copy, arena.memory):
                self._cache.write(blocks, rows)
            if not _written(arena, copy):
                raise Unreadable(TAKEN_BACK)
        except Unreadable as error:
            return Done(copy, 0, error.reason)
        except (RuntimeError, IndexError):
            return Done(copy, 0, FAILED)
        return Done(copy, time.perf_counter_ns() - started)

    def _mapped(self, ref: ArenaRef) -> RemoteArena:
        self._forget_the_dead(but=ref)
        if ref not in self._remote:
            self._remote[ref] = RemoteArena(ref, self._planes.layout)
        return self._remote[ref]

    def _forget_the_dead(self, but: ArenaRef | None = None) -> None:
        """Unmap what prefill workers that are gone left behind: nobody else can use the memory."""
        for ref in [ref for ref, arena in self._remote.items() if not arena.alive and ref != but]:
            del self._remote[ref]


def _written(arena: RemoteArena, copy: Copy) -> bool:
    """Whether all slots hold what the transfer is about; False: not yet.

    Raises:
        Unreadable: they never will, or do no longer.
    """
    stamps = arena.stamps[torch.tensor(copy.slots)]
    wanted = copy.base + WRITTEN
    if bool((stamps > wanted).any()):
        raise Unreadable(TAKEN_BACK)
    if bool((stamps == wanted).all()):
        return True
    if not arena.alive:
        raise Unreadable(GONE)
    if time.monotonic_ns() - copy.since_ns > WAIT_LIMIT_NS:
        raise Unreadable(NOT_WRITTEN)
    return False


def _batches(copy: Copy, memory: torch.Tensor) -> Iterator[tuple[list[int], torch.Tensor]]:
    """Blocks, and the rows of memory that are their slots: neighbours, as many as make a batch."""
    most = max(1, BATCH_BYTES // memory[0].nbytes)
    first = 0
    for end in range(1, len(copy.slots) + 1):
        together = end < len(copy.slots) and copy.slots[end] == copy.slots[end - 1] + 1
        if not together or end - first == most:
            slot = copy.slots[first]
            yield copy.blocks[first:end], memory[slot : slot + end - first]
            first = end


class _Cache:
    """The engine's cache, to be read and written in batches of rows, int64 [blocks, words].

    Rows are in host memory. From and to a CUDA device they go through pinned memory, without which
    copies would be neither asynchronous nor fast, in a stream of their own, so that they do not
    queue behind forward passes.
    """

    def __init__(self, planes: Planes) -> None:
        self._planes = planes.tensors
        self._sizes = [plane.shape[1] for plane in planes.tensors]
        self._device = planes.device
        self._stream: Any = None
        if self._device.type == "cuda":
            shape = (max(1, BATCH_BYTES // planes.slot_bytes), planes.slot_bytes // WORD_BYTES)
            self._packed = torch.empty(shape, dtype=torch.int64, device=self._device)
            self._pinned = torch.empty(shape, dtype=torch.int64, pin_memory=True)
            self._stream = torch.cuda.Stream(self._device)

    def stream(self) -> Any:
        """A context in which this thread's work on the device goes its own way."""
        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)

    def read(self, blocks: list[int], rows: torch.Tensor) -> None:
        """Fill rows from blocks."""
        indices = torch.tensor(blocks, device=self._device)
        packed = rows if self._stream is None else self._packed[: len(blocks)]
        for plane, part in zip(self._planes, packed.split(self._sizes, dim=1), strict=True):
            torch.index_select(plane, 0, indices, out=part)
        if self._stream is not None:
            pinned = self._pinned[: len(blocks)].copy_(packed, non_blocking=True)
            self._stream.synchronize()
            rows.copy_(pinned)

    def write(self, blocks: list[int], rows: torch.Tensor) -> None:
        """Fill blocks from rows."""
        indices = torch.tensor(blocks, device=self._device)
        packed = rows
        if self._stream is not None:
            pinned = self._pinned[: len(blocks)].copy_(rows)
            packed = self._packed[: len(blocks)].copy_(pinned, non_blocking=True)
        for plane, part in zip(self._planes, packed.split(self._sizes, dim=1), strict=True):
            plane.index_copy_(0, indices, part)
        if self._stream is not None:
            self._stream.synchronize()
