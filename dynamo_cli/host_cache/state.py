"""Which slot of the memory holds which block, and who may write to which slot. Pure.

The state of a slot, and what changes it:

    free ---- lend ----> lent to one engine ---- written ----> holds a block
     ^                     |   |     |                              |
     +----- returned ------+   |     +--- written by another --> free (a duplicate)
     +---- rests <--- gone ----+                                    |
     +-------------------------- evicted, unless pinned ------------+

    free ---- claim, to read a block from the disk ----> filled: holds a block, or free again

    busy: an engine still uses it because an earlier link let it ---- returned ----> free

A host cache that was started again knows nothing. It lends no slot before every engine that was
there before it has said which slots it still uses. One whose links were made anew knows what each
engine had: that stays out of use until the engine has said what it still uses, or has ended.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from dynamo_cli.host_cache.blocks import Block, TierBlocks
from dynamo_cli.host_cache.opened import MAX_LENT, Opened
from dynamo_cli.host_cache.refusal import Slots
from dynamo_cli.host_cache.resting import Resting
from dynamo_cli.kv.hashes import ROOT
from dynamo_cli.kv.holdings import Holdings
from dynamo_cli.messages.host_cache import MISSING
from dynamo_cli.topology import ProcessId

LENT_SHARE = 4
"""At most a slot in four is lent, empty, to all engines together."""


class HostCache:
    """The slots of the memory.

    Args:
        size_bytes: size of the memory.
        clock: gives nanoseconds; only differences count.
        reach: what the router is told of this and the disk together; None without a disk.

    Attributes:
        slots: number of slots; 0 until the first engine has said how large they are.
        slot_bytes: size of each.
        blocks: the blocks in the slots.
        closed: whether it gives and takes no blocks, because engines are being reset.
        wanted, found, written, duplicates, evicted, short, refused: see `HostCacheStats`.
        invalid: slots that an engine named although they were not lent to it, and messages of
            engines that have not opened the cache.
        claimed: slots into which blocks are read from the disk.
    """

    def __init__(
        self, size_bytes: int, clock: Callable[[], int], reach: Holdings | None = None
    ) -> None:
        self.blocks = TierBlocks(reach=reach)
        self.slots = self.slot_bytes = self.claimed = 0
        self.closed = False
        self.wanted = self.found = self.written = self.duplicates = 0
        self.evicted = self.short = self.refused = self.invalid = 0
        self._size_bytes = size_bytes
        self._layout = ""
        self._first = ""
        self._engines: dict[ProcessId, Opened] = {}
        self._parted: dict[ProcessId, Opened] = {}  # what those had that may live without a link
        # engines that must tell before any slot is lent -> slots that a refused one still uses
        self._awaited: dict[ProcessId, set[int]] = {}
        self._all_linked = False
        self._free: list[int] = []
        self._busy: Counter[int] = Counter()
        self._resting = Resting(clock)

    # -- engines come and go -------------------------------------------------------------------

    def linked(self, engine: ProcessId) -> None:
        """There is a link to an engine. If it was there before this process, it is awaited."""
        if not self._all_linked:
            self._awaited[engine] = set()

    def all_linked(self) -> None:
        """All engines that were there before this process have a link."""
        self._all_linked = True

    @property
    def awaited(self) -> list[str]:
        """Names of the engines that must say which slots they use before any slot is lent."""
        return [engine.name for engine in self._awaited]

    def open(
        self,
        engine: ProcessId,
        slot_bytes: int,
        layout: str,
        busy: Sequence[int] = (),
        reserve: int = 0,
    ) -> str:
        """Let an engine use the cache; the first one says how large slots are.

        Args:
            slot_bytes, layout, busy, reserve: see `OpenCache`.

        Returns:
            why it cannot use the cache, as one sentence; empty if it can.
        """
        if engine in self._engines:
            self.invalid += 1
            return ""
        mine = Slots(self._size_bytes, self.slot_bytes, self._layout, self._first)
        if refusal := mine.refusal(slot_bytes, layout):
            self.refused += 1
            if busy and engine in self._awaited:
                self._awaited[engine] = set(busy)  # its slots have another size than ours
            else:
                self._awaited.pop(engine, None)
            return refusal
        if not self.slots:
            self.slot_bytes, self._layout, self._first = slot_bytes, layout, engine.name
            self.slots = self._size_bytes // slot_bytes
            self._free = list(range(self.slots - 1, -1, -1))
        self._awaited.pop(engine, None)
        self._engines[engine] = Opened(reserve=min(reserve or MAX_LENT, MAX_LENT))
        if (had := self._parted.pop(engine, None)) is not None:
            busy = self._keep_read(engine, had, busy)
        self._set_busy(engine, busy)
        return ""

    def _keep_read(self, engine: ProcessId, had: Opened, busy: Sequence[int]) -> list[int]:
        """Keep those blocks of an earlier link that an engine still reads; release all else.

        Returns:
            the other slots that it uses.
        """
        blocks = [*had.read.values(), *(one for found in had.pinned.values() for one in found)]
        known = {block.slot: block for block in blocks}
        read = self._engines[engine].read = {slot: known[slot] for slot in busy if slot in known}
        self.blocks.pin(read.values())
        self._release(had)
        return [slot for slot in busy if slot not in read]

    def _set_busy(self, engine: ProcessId, busy: Sequence[int]) -> None:
        """Lend nobody the slots that an engine uses because an earlier link let it."""
        able = {*self._free, *self._busy, *self._resting} if busy else set()
        taken = {slot for slot in busy if slot in able}
        self.invalid += len(busy) - len(taken)
        self._engines[engine].busy = taken
        self._busy.update(taken)
        if taken:
            self._free = [slot for slot in self._free if slot not in taken]
        self._resting.drop(taken)

    def parted(self, engine: ProcessId) -> None:
        """The link to an engine is gone. If it lives, it goes on reading and writing its slots."""
        if (had := self._engines.pop(engine, None)) is not None:
            self._parted[engine] = had

    def gone(self, engine: ProcessId) -> None:
        """The process of an engine has ended: it reads nothing, and its slots are free soon."""
        self._awaited.pop(engine, None)
        had = self._engines.pop(engine, None) or self._parted.pop(engine, None)
        if had is not None:
            self._release(had)

    def _release(self, had: Opened) -> None:
        """Nobody uses these slots and blocks any more; ranks may write to the slots for a while."""
        unused = [*had.lent, *(slot for slot in had.busy if self._not_busy(slot))]
        self._resting.begin(unused)
        for pinned in (*had.pinned.values(), had.read.values()):
            self.blocks.unpin(pinned)

    # -- reading -----------------------------------------------------------------------------

    def find(self, engine: ProcessId, request_id: str, keys: Sequence[bytes]) -> list[int] | None:
        """Return the slot of each block, or `MISSING`, and pin those that were found.

        Args:
            keys: of blocks of one prompt, in their order.

        Returns:
            None if the engine has not opened the cache.
        """
        reader = self._opened(engine)
        if reader is None:
            return None
        blocks = [None] * len(keys) if self.closed else self.blocks.find(keys)
        found = [block for block in blocks if block is not None]
        self.wanted += len(keys)
        self.found += len(found)
        if found:
            self.blocks.pin(found)
            self.blocks.use(found)
            reader.pinned.setdefault(request_id, []).extend(found)
        return [MISSING if block is None else block.slot for block in blocks]

    def read(self, engine: ProcessId, request_id: str) -> None:
        """Unpin the blocks that were found for a request; nothing if there are none."""
        reader = self._opened(engine)
        if reader is not None:
            self.blocks.unpin(reader.pinned.pop(request_id, ()))

    # -- writing -----------------------------------------------------------------------------

    def wrote(
        self,
        engine: ProcessId,
        keys: Sequence[bytes],
        slots: Sequence[int],
        hashes: Sequence[int] = (),
        parents: Sequence[int] = (),
    ) -> list[Block]:
        """Blocks are complete in slots that were lent to an engine; see `BlocksWritten`.

        Returns:
            those that the cache did not have.
        """
        writer = self._opened(engine)
        hashes = hashes or [ROOT] * len(keys)
        parents = parents or [ROOT] * len(keys)
        if writer is None or not len(keys) == len(slots) == len(hashes) == len(parents):
            self.invalid += writer is not None
            return []
        blocks, new = [], []
        for key, slot, sequence_hash, parent in zip(keys, slots, hashes, parents, strict=True):
            if slot not in writer.lent:
                self.invalid += 1
                continue
            writer.lent.remove(slot)
            self.written += 1
            if slot in writer.stale:
                writer.stale.remove(slot)
                self._free.append(slot)
                continue
            block = self.blocks.get(key)
            if block is None:
                block = self.blocks.add(key, slot, sequence_hash, parent)
                new.append(block)
            else:
                self.duplicates += 1
                self._free.append(slot)
            blocks.append(block)
        self.blocks.use(blocks)
        return new

    def returned(self, engine: ProcessId, slots: Sequence[int]) -> None:
        """An engine does not use slots that it was lent, or that it named as busy."""
        if (refused := self._awaited.get(engine)) is not None:
            refused.difference_update(slots)
            if not refused:
                del self._awaited[engine]
            return
        had = self._opened(engine)
        for slot in slots if had is not None else ():
            assert had is not None
            if slot in had.lent:
                had.lent.remove(slot)
                had.stale.discard(slot)
                self._free.append(slot)
            elif slot in had.busy:
                had.busy.remove(slot)
                if self._not_busy(slot):
                    self._free.append(slot)
            elif slot in had.read:
                self.blocks.unpin([had.read.pop(slot)])
            else:
                self.invalid += 1

    def reset(self, *, closed: bool = False) -> bool:
        """Forget all blocks, also those that are being written now.

        What an engine writes to a slot that it was lent before counts as old, since only the engine
        knows when it was computed. An engine that has been reset itself has returned the slots to
        which it was not writing yet.

        Args:
            closed: give and take no blocks until the next reset. Meanwhile the engines are reset
                one after the other, and one that was reset may not get old blocks of one that was
                not.

        Returns:
            whether all are gone. Blocks that are being read stay, and so do the blocks before them.
        """
        self.closed = closed
        for engine in self._engines.values():
            engine.stale = set(engine.lent)
        while (slot := self.blocks.evict()) is not None:
            self._free.append(slot)
            self.evicted += 1
        return not len(self.blocks)

    def _not_busy(self, slot: int) -> bool:
        """Count one engine less for a slot; returns whether no engine uses it any more."""
        self._busy[slot] -= 1
        if self._busy[slot]:
            return False
        del self._busy[slot]
        return True

    def _opened(self, engine: ProcessId) -> Opened | None:
        opened = self._engines.get(engine)
        self.invalid += opened is None
        return opened

    # -- lending -----------------------------------------------------------------------------

    @property
    def lent(self) -> int:
        """Number of empty slots that engines may write to."""
        both = (*self._engines.values(), *self._parted.values())
        return sum(len(engine.lent) for engine in both)

    @property
    def free(self) -> int:
        """Number of empty slots that nobody may write to."""
        return len(self._free) + len(self._resting)

    @property
    def rests(self) -> bool:
        """Whether slots will be free in a while, without any message."""
        return bool(self._resting)

    @property
    def busy(self) -> int:
        """Number of slots without a block that engines use because an earlier link let them."""
        return len(self._busy)

    def lend(self) -> dict[ProcessId, list[int]]:
        """Lend slots to the engines that have used up theirs; blocks are evicted for them.

        Returns:
            the slots that each engine gets in addition to those that it has.
        """
        self._free += self._resting.ended()
        if not self._all_linked or self._awaited or self.closed or not self._engines:
            return {}
        share = max(1, self.slots // (LENT_SHARE * len(self._engines)))
        lent = {}
        for name, engine in self._engines.items():
            enough = min(engine.reserve, share)
            # Not for every slot a message: only when a quarter of them is used up.
            if enough - len(engine.lent) <= enough // 4:
                continue
            if slots := self._take(engine, enough):
                lent[name] = slots
        return lent

    def _take(self, engine: Opened, enough: int) -> list[int]:
        """Lend an engine as many slots as it lacks, if there are so many."""
        slots = []
        while len(engine.lent) < enough and (slot := self._empty()) is not None:
            engine.lent.add(slot)
            slots.append(slot)
        short = len(engine.lent) < enough
        self.short += short and not engine.short
        engine.short = short
        return slots

    def _empty(self) -> int | None:
        """An empty slot; for it a block is evicted if there is none."""
        if self._free:
            return self._free.pop()
        slot = self.blocks.evict()
        self.evicted += slot is not None
        return slot

    # -- reading from the disk -----------------------------------------------------------------

    def claim(self) -> int | None:
        """Take an empty slot to read a block into; None if no block can be evicted for it."""
        slot = self._empty()
        self.claimed += slot is not None
        return slot

    def unclaim(self, slot: int) -> None:
        """A claimed slot is free: nothing was read."""
        self.claimed -= 1
        self._free.append(slot)

    def fill(self, slot: int, key: bytes, sequence_hash: int, parent: int) -> Block:
        """A block was read into a claimed slot; returns the block, which may be in another one."""
        block = self.blocks.get(key)
        if block is not None:  # an engine has written it meanwhile
            self.unclaim(slot)
        else:
            self.claimed -= 1
            block = self.blocks.add(key, slot, sequence_hash, parent)
        self.blocks.use([block])
        return block

    def keep(self, engine: ProcessId, request_id: str, block: Block) -> None:
        """Pin a block that was found late for a request; see `find`."""
        self.found += 1
        self.blocks.pin([block])
        self._engines[engine].pinned.setdefault(request_id, []).append(block)
