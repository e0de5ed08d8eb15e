"""The tier on disk, below the memory: what is written to it, and what is read back. Pure.

Each block that comes into the memory is written to the disk soon after, so that it can be evicted
from the memory at any time. If an engine asks for a block that is only on disk, the block is read
into an empty slot first. The answer to the engine waits for that, but no longer than the engine
would need to compute the block.

    memory:  slots, `HostCache`          disk:  places of the same size, `TierBlocks` of their own
      new block ---- write, from its slot, which is pinned ----> place
      claimed slot <---- read, from its place, which is pinned ---- block that is asked for
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from dynamo_cli.host_cache.blocks import Block, TierBlocks
from dynamo_cli.host_cache.places import Places
from dynamo_cli.host_cache.service_time import ServiceTime
from dynamo_cli.host_cache.state import HostCache
from dynamo_cli.host_cache.waits import QuestionKey, Wait, Waits
from dynamo_cli.kv.holdings import Holdings
from dynamo_cli.messages.host_cache import MISSING, DiskStats
from dynamo_cli.topology import ProcessId
from dynamo_cli.units import MS_NS, SECOND_NS

MOST_WAIT_NS = 250 * MS_NS
"""No answer waits longer than this: half of `FIND_TIMEOUT_NS`, after which engines do not wait for
an answer."""

GUESSED_BLOCK_NS = MS_NS
"""Assumed time in which an engine computes a block, if its question does not say it."""

STALLED_NS = SECOND_NS
"""While a read has taken longer than this, no other one is begun."""

MOST_WRITES = 8
"""Most blocks that are being written at the same time."""

READ_SHARE = 4
"""At most one slot in four (1 / `READ_SHARE`) is claimed for blocks that are being read."""

MOST_FAILURES = 16
"""After so many failures in a row the disk is not used any more."""

GONE, NO_ROOM, DISK_FULL = "gone", "no_room", "disk_full"
"""Why a block was not written: it was evicted from the memory before, all places of the file are in
use, or the disk is full."""

SLOW = "slow"
"""Why a block on disk was not read: computing it is faster, or too much is being read already."""

READ_FAILED, WRITE_FAILED, CORRUPT = "read_failed", "write_failed", "corrupt"
"""Why a copy has failed: the system could not read or write, or a block has a wrong checksum."""


class DiskJob(NamedTuple):
    """A copy between the memory and the file.

    Attributes:
        write: whether the block goes from the memory to the file; else it is read.
        number: number of this job, counted from 1 on.
        slot, place: where the block is in memory and in the file, counted in blocks.
        checksum: checksum that the block must have if it is read.
    """

    write: bool
    number: int
    slot: int
    place: int
    checksum: int = 0


class Done(NamedTuple):
    """The end of a job.

    Attributes:
        failure: why it has failed, one of the reasons above; empty if it has not.
        checksum: checksum of the block that was written.
    """

    job: DiskJob
    failure: str = ""
    checksum: int = 0


@dataclass(slots=True)
class _Copy:
    """A job that runs.

    Attributes:
        block: the block in the tier that it is copied from; pinned there.
        since_ns: when the job began.
        stale: whether the cache was reset since, so that the copy is of no use.
        waiting: questions of engines that wait for this block.
    """

    job: DiskJob
    block: Block
    since_ns: int
    stale: bool = False
    waiting: list[QuestionKey] = field(default_factory=list)


class Disk:
    """The blocks on disk, and the copies between there and the memory.

    Args:
        memory: the tier in memory.
        size_bytes: most bytes of the file.
        clock: gives nanoseconds; only differences count.
        reach: the blocks in memory or on disk, as the router is told of them; `memory` has the same
            object.

    Attributes:
        blocks: the blocks on disk; their slots are places in the file.
        waits: the questions that wait for reads.
        dropped: number of blocks that were not written, not read or not waited for, by reason.
        off: why the disk is not used any more; empty while it is used.
    """

    def __init__(
        self, memory: HostCache, size_bytes: int, clock: Callable[[], int], reach: Holdings
    ) -> None:
        self.blocks = TierBlocks(reach)
        self.dropped: Counter[str] = Counter()
        self.waits = Waits(clock, self.dropped)
        self.off = ""
        self._memory = memory
        self._size_bytes = size_bytes
        self._clock = clock
        self._places = Places(0)
        self._reads_speed, self._writes_speed = ServiceTime(clock), ServiceTime(clock)
        self._checksums: dict[int, int] = {}  # by place
        self._queue: deque[bytes] = deque()  # keys of blocks to write
        self._reads: dict[bytes, _Copy] = {}
        self._writes: dict[bytes, _Copy] = {}
        self._copies: dict[int, _Copy] = {}  # all of them, by number
        self._new: list[DiskJob] = []
        self._jobs = self._failures = 0
        self._wanted = self._found = self._evicted = 0

    def opened(self) -> None:
        """Make the places of the file: from now on the size of a block is known."""
        if not self._places.count:
            self._places = Places(self._size_bytes // self._memory.slot_bytes)

    # -- writing -------------------------------------------------------------------------------

    def stored(self, blocks: Iterable[Block]) -> None:
        """Note blocks that have come into the memory, to write them later."""
        if self.off:
            return
        self._queue.extend(block.key for block in blocks)
        while len(self._queue) > self._memory.slots:
            self._queue.popleft()
            self.dropped[GONE] += 1

    def jobs(self) -> list[DiskJob]:
        """Return the copies to begin now; each is returned once."""
        while self._queue and len(self._writes) < MOST_WRITES:
            self._write(self._queue.popleft())
        new, self._new = self._new, []
        return new

    def _write(self, key: bytes) -> None:
        if key in self._writes or self.blocks.get(key) is not None:
            return
        block = self._memory.blocks.get(key)
        if block is None:
            self.dropped[GONE] += 1
            return
        place = self._place()
        if place is None:
            self.dropped[DISK_FULL if self._places.full else NO_ROOM] += 1
            return
        self._memory.blocks.pin([block])
        self._begin(self._writes, block, block.slot, place)

    def _place(self) -> int | None:
        place = self._places.take(self._clock())
        if place is None and (place := self.blocks.evict()) is not None:
            self._evicted += 1
            del self._checksums[place]
        return place

    def _begin(self, kind: dict[bytes, _Copy], block: Block, slot: int, place: int) -> _Copy:
        self._jobs += 1
        write = kind is self._writes
        job = DiskJob(write, self._jobs, slot, place, 0 if write else self._checksums[place])
        copy = kind[block.key] = self._copies[job.number] = _Copy(job, block, self._clock())
        (self._writes_speed if write else self._reads_speed).begin()
        self._new.append(job)
        return copy

    # -- reading -------------------------------------------------------------------------------

    def search(
        self,
        engine: ProcessId,
        name: str,
        keys: Sequence[bytes],
        slots: list[int],
        block_ns: int = 0,
    ) -> bool:
        """Begin to read the blocks of a prompt that are only on disk, if that is worth it.

        Args:
            engine: the engine that asks.
            name: its name of the question.
            keys: keys of the blocks, in the order of the prompt.
            slots: the slot of each block, or `MISSING`; the found ones are pinned already.
            block_ns: time in which the engine computes a block; 0 if it is not known.

        Returns:
            whether the answer must wait; if so, it comes from `waits`.
        """
        there = self.blocks.find(keys)
        if not any(there):
            return False
        self.blocks.use([block for block in there if block is not None])
        missing = [
            (index, block)
            for index, (slot, block) in enumerate(zip(slots, there, strict=True))
            if slot == MISSING and block is not None
        ]
        if not missing:
            return False
        self._wanted += len(missing)
        block_ns = block_ns or GUESSED_BLOCK_NS
        running, speed = len(self._reads), self._reads_speed
        count = min(len(missing), speed.within(MOST_WAIT_NS) - running)
        patience_ns = min(count * block_ns, MOST_WAIT_NS)
        if count <= 0 or self._stalled() or speed.within(patience_ns) < running + count:
            self.dropped[SLOW] += len(missing)
            return False
        self.dropped[SLOW] += len(missing) - count
        wait = Wait(slots, self._clock() + patience_ns)
        return self._read((engine, name), wait, missing[:count])

    def _stalled(self) -> bool:
        oldest = next(iter(self._reads.values()), None)
        return oldest is not None and self._clock() - oldest.since_ns > STALLED_NS

    def _read(self, question: QuestionKey, wait: Wait, missing: list[tuple[int, Block]]) -> bool:
        for index, block in missing:
            copy = self._reads.get(block.key) or self._begin_read(block)
            if copy is None:
                self.dropped[SLOW] += 1
                continue
            copy.waiting.append(question)
            wait.awaited[block.key] = index
        return self.waits.add(question, wait)

    def _begin_read(self, block: Block) -> _Copy | None:
        if self._memory.claimed >= max(1, self._memory.slots // READ_SHARE):
            return None
        slot = self._memory.claim()
        if slot is None:
            return None
        self.blocks.pin([block])
        return self._begin(self._reads, block, slot, block.slot)

    # -- the end of copies ---------------------------------------------------------------------

    def done(self, done: Done) -> None:
        """Take over the result of a copy that has ended."""
        copy = self._copies.pop(done.job.number)
        kind = self._writes if done.job.write else self._reads
        if kind.get(copy.block.key) is copy:
            del kind[copy.block.key]
        if done.job.write:
            self._writes_speed.end(ok=not done.failure)
            self._written(copy, done)
        else:
            self._reads_speed.end(ok=not done.failure)
            self._was_read(copy, done)
        self._note(done)  # last, because after too many failures it resets everything

    def _note(self, done: Done) -> None:
        if not done.failure:
            self._failures = 0
            return
        self.dropped[done.failure] += 1
        self._failures += done.failure != DISK_FULL
        if self._failures >= MOST_FAILURES and not self.off:
            self.off = f"{self._failures} copies in a row have failed ({done.failure})"
            self.reset()

    def _written(self, copy: _Copy, done: Done) -> None:
        place = done.job.place
        if not copy.stale:
            self._memory.blocks.unpin([copy.block])
        if done.failure == DISK_FULL:
            self._places.full_at(place, self._clock())
        elif done.failure:
            pass  # the place may be bad, and is not used again
        elif copy.stale:
            self._places.put(place)
        else:
            block = copy.block
            self._checksums[place] = done.checksum
            added = self.blocks.add(block.key, place, block.sequence_hash, block.parent)
            self.blocks.use([added])

    def _was_read(self, copy: _Copy, done: Done) -> None:
        """Take over a block that was read. If the read has failed, its place may be bad, and is not
        used again."""
        block, found = copy.block, None
        self.blocks.unpin([block])
        if not done.failure and not copy.stale:
            found = self._memory.fill(done.job.slot, block.key, block.sequence_hash, block.parent)
        else:
            self._memory.unclaim(done.job.slot)
        if copy.stale and not done.failure:
            self._places.put(block.slot)
        elif done.failure and not copy.stale:
            self.blocks.drop(block)
            del self._checksums[block.slot]
        for question in copy.waiting:
            slot = MISSING if found is None else found.slot
            if self.waits.came(question, block.key, slot) and found is not None:
                self._found += 1
                self._memory.keep(*question, found)

    # -- all of it -----------------------------------------------------------------------------

    def reset(self) -> None:
        """Forget all blocks, also those that are being copied. The caller resets the memory
        next."""
        self._queue.clear()
        for copy in self._copies.values():
            if copy.job.write and not copy.stale:
                self._memory.blocks.unpin([copy.block])  # what is being written is not used
            copy.stale = True
        self._evicted += len(self.blocks)
        read = {copy.job.place for copy in self._copies.values()}  # free when these have ended
        for place in self.blocks.clear():
            del self._checksums[place]
            if place not in read:
                self._places.put(place)
        self._reads.clear()
        self._writes.clear()

    @property
    def block_s(self) -> float | None:
        """Mean time to read a block, seconds; None before any was read."""
        return self._reads_speed.unit_s

    def stats(self) -> DiskStats:
        """What it holds and has done."""
        return DiskStats(
            places=self._places.count,
            used=len(self.blocks),
            wanted=self._wanted,
            found=self._found,
            read=self._reads_speed.units,
            read_s=self._reads_speed.spent_ns / SECOND_NS,
            written=self._writes_speed.units,
            write_s=self._writes_speed.spent_ns / SECOND_NS,
            evicted=self._evicted,
            dropped=dict(+self.dropped),
            off=self.off,
        )
