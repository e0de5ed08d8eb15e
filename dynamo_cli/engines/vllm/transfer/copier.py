"""Copies between an engine's KV cache and arenas, in a thread, so that no engine step waits.

A save begins when its prompt is complete. The decode side is notified at once, not when the copy
is done, and its own copier waits for the stamps. A notification after the copy would be later: it
would have to wait for the next step of an engine that may be busy with another long prompt.
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
"""Why a copy failed: torch has raised an error."""

WAIT_S = 0.0002
"""Poll interval for blocks that are not written yet."""

WAIT_LIMIT_NS = 5 * SECOND_NS
"""Longest wait for blocks to be written. A save takes milliseconds, but may be queued."""

TIDY_S = 10.0
"""After this time without a copy, arenas of processes that are gone are unmapped."""

BATCH_BYTES = 32 * 1024 * 1024
"""Size of a batch, and of the buffers for it on a CUDA device and in pinned memory."""


class Copy(NamedTuple):
    """Blocks of one request and the slots that they go to or come from.

    Attributes:
        blocks, slots: block numbers and slot numbers, in the same order.
        base: the base of the transfer's stamps; see `arena`.
        arena: the arena to load from; None saves into this engine's own.
        since_ns: when the copy was asked for, on the monotonic clock.
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
        """`SAVE` or `LOAD`."""
        return SAVE if self.arena is None else LOAD


class Done(NamedTuple):
    """A copy that is over; `failed` says why it failed, and is empty if it did not."""

    copy: Copy
    nanoseconds: int
    failed: str = ""


@dataclass(slots=True)
class CopyStats:
    """Counters since the start: by kind (`SAVE`, `LOAD`), and failures by reason."""

    copies: Counter[str] = field(default_factory=Counter)
    nbytes: Counter[str] = field(default_factory=Counter)
    nanoseconds: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)

    def count(self, done: Done, slot_bytes: int) -> None:
        """Add a copy that is over."""
        if done.failed:
            self.failures[done.failed] += 1
            return
        kind = done.copy.kind
        self.copies[kind] += 1
        self.nbytes[kind] += len(done.copy.blocks) * slot_bytes
        self.nanoseconds[kind] += done.nanoseconds


class Copier:
    """One thread that does copies in order; a load that has to wait is tried again after others.

    Args:
        planes: the engine's cache.
        arena: the engine's own arena; None when it only loads.

    Attributes:
        stats: counters of the copies that `done` has returned.
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
        """Queue a copy behind those that were submitted before."""
        self._todo.put(copy)

    def done(self) -> Iterator[Done]:
        """Yields the copies that have ended since the last call."""
        self._news.clear()
        while not self._done.empty():
            done = self._done.get()
            self.stats.count(done, self._planes.slot_bytes)
            yield done

    def wait(self, limit_s: float) -> None:
        """Wait until a copy has ended that `done` has not returned, at most `limit_s` seconds."""
        self._news.wait(limit_s)

    def close(self) -> None:
        """End the thread after the submitted copies; loads that wait for blocks are given up."""
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
                    # Its blocks are not there yet: try the next copy first.
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
        except (RuntimeError, IndexError):  # what torch raises about memory and indices
            stamps[slots] = copy.base + LOST
            return Done(copy, 0, FAILED)
        stamps[slots] = copy.base + WRITTEN
        return Done(copy, time.perf_counter_ns() - started)

    def _load(self, copy: Copy, ref: ArenaRef) -> Done | None:
        """Load the blocks; None if they are not written yet."""
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
        """Unmap the arenas of prefill workers that are gone, so that their memory is freed."""
        for ref in [ref for ref, arena in self._remote.items() if not arena.alive and ref != but]:
            del self._remote[ref]


def _written(arena: RemoteArena, copy: Copy) -> bool:
    """Whether all slots hold the blocks of this transfer; False if they do not yet.

    Raises:
        Unreadable: they never will, or do not any more.
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
    """Batches of blocks whose slots are neighbours, each with the rows of memory of these slots."""
    most = max(1, BATCH_BYTES // memory[0].nbytes)
    first = 0
    for end in range(1, len(copy.slots) + 1):
        together = end < len(copy.slots) and copy.slots[end] == copy.slots[end - 1] + 1
        if not together or end - first == most:
            slot = copy.slots[first]
            yield copy.blocks[first:end], memory[slot : slot + end - first]
            first = end


class _Cache:
    """Reads and writes the engine's cache in batches of rows, int64 [blocks, words].

    Rows are in host memory. Copies from and to a CUDA device go through pinned memory, without
    which they would be neither asynchronous nor fast. They have a stream of their own, so that they
    do not queue behind forward passes.
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
        """A context in which this thread uses the stream for copies."""
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
