"""The tier on disk, below the memory: what is written to it, and what is read back. Pure.

Each new block of the memory is written to the disk soon after, as fast as the disk takes it, so
that the memory can drop it at any time. A block that an engine asks for and that is only on disk is
read into an empty slot first. The answer waits for that, but no longer than the engine would take
to compute the block.

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
"""No answer waits longer than this: half of the time after which engines count it as late."""

GUESSED_BLOCK_NS = MS_NS
"""Assumed time in which an engine computes a block, as long as the engine has not told its own."""

STALLED_NS = SECOND_NS
"""While a read has taken longer than this, no other one is begun."""

MOST_WRITES = 8
"""Most blocks that are being written at the same time."""

READ_SHARE = 4
"""At most a slot in four is claimed for reads."""

MOST_FAILURES = 16
"""After so many failures in a row the disk is not used any more."""

GONE, NO_ROOM, DISK_FULL = "gone", "no_room", "disk_full"
"""Why a block was not written: it has left the memory before, the file has no place for it, or the
disk is full."""

SLOW = "slow"
"""Why a block on disk was not read: computing it is faster, or too much is being read already."""

READ_FAILED, WRITE_FAILED, CORRUPT = "read_failed", "write_failed", "corrupt"
"""Why a copy has failed: the system could not read or write, or a block has a wrong checksum."""


class DiskJob(NamedTuple):
    """A copy between the memory and the file.

    Attributes:
        write: whether it goes to the file.
        number: of this job.
        slot, place: where the block is in memory and in the file, in blocks.
        checksum: what a block that is read must have.
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
        checksum: of the block that was written.
    """

    job: DiskJob
    failure: str = ""
    checksum: int = 0


@dataclass(slots=True)
class _Copy:
    """A job that runs: its block in the tier it is copied from, and the questions that wait."""

    job: DiskJob
    block: Block
    since_ns: int
    stale: bool = False
    waiting: list[QuestionKey] = field(default_factory=list)


class Disk:
    """The blocks on disk, and the copies between there and the memory.

    Args:
        memory: the tier above.
        size_bytes: size of the file.
        clock: gives nanoseconds; only differences count.
        reach: what the router is told of both tiers; the memory has the same.

    Attributes:
        blocks: the blocks on disk; their slots are places in the file.
        waits: the questions that wait for reads.
        dropped: blocks that were not written or not waited for, by reason.
        off: why the disk is not used any more; empty while it is.
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
        """The size of slots is known."""
        if not self._places.count:
            self._places = Places(self._size_bytes // self._memory.slot_bytes)

    # -- writing -------------------------------------------------------------------------------

    def stored(self, blocks: Iterable[Block]) -> None:
        """These blocks have come into the memory; they are written later."""
        if self.off:
            return
        self._queue.extend(block.key for block in blocks)
        while len(self._queue) > self._memory.slots:
            self._queue.popleft()
            self.dropped[GONE] += 1

    def jobs(self) -> list[DiskJob]:
        """The copies that begin now."""
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
            slots: where the memory has them; it has pinned these blocks for this question.
            block_ns: time in which the engine computes a block; 0 if it is not known.

        Returns:
            whether the answer must wait: `waits` has it then.
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
        """A copy has ended."""
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
        """End a read. If it has failed, its place may be bad, and is not used again."""
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
        """Forget all blocks, also those that are being copied; the memory is reset after this."""
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
        """Time to read a block, seconds; None before any was read."""
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
