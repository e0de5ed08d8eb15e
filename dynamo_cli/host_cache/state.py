"""Which slot of the memory holds which block, and who may write to which slot. Pure.

The state of a slot, and what changes it:

    free ---- lend ----> lent to one engine ---- written ----> holds a block
     ^                     |   |     |                              |
     +----- returned ------+   |     +--- written by another --> free (a duplicate)
     +---- rests <--- gone ----+                                    |
     +-------------------------- evicted, unless pinned ------------+

    free ---- claim, to read a block from the disk ----> filled: holds a block, or free again

    busy: an engine still uses it, because of an earlier link ---- returned ----> free

A host cache process that was started again knows nothing. It lends no slot before every engine that
was started before it has said which slots it still uses. If only a link was lost and made anew, the
process knows what the engine had. It lends that to nobody until the engine has said what it still
uses, or has ended.
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
"""At most one slot in four (1 / `LENT_SHARE`) is empty and lent, over all engines."""


class HostCache:
    """The slots of the memory.

    Args:
        size_bytes: size of the memory.
        clock: gives nanoseconds; only differences count.
        reach: the blocks in memory or on disk, as the router is told of them; None without a disk.

    Attributes:
        slots: number of slots; 0 until the first engine has said how large they are.
        slot_bytes: size of each.
        blocks: the blocks in the slots.
        closed: whether no blocks are found and no slots are lent, because engines are being reset.
        wanted, found, written, duplicates, evicted, short, refused: see `HostCacheStats`.
        invalid: slots that an engine named although they were not lent to it, and messages of
            engines that have not opened the cache.
        claimed: number of slots into which blocks are being read from the disk.
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
        self._parted: dict[ProcessId, Opened] = {}  # engines without a link, which may still live
        # engines that must say which slots they use before any slot is lent -> slots that an engine
        # still uses although it was refused
        self._awaited: dict[ProcessId, set[int]] = {}
        self._all_linked = False
        self._free: list[int] = []
        self._busy: Counter[int] = Counter()
        self._resting = Resting(clock)

    # -- engines come and go -------------------------------------------------------------------

    def linked(self, engine: ProcessId) -> None:
        """Note a link to an engine. If the engine was started before this process, it is
        awaited."""
        if not self._all_linked:
            self._awaited[engine] = set()

    def all_linked(self) -> None:
        """Note that all engines that were started before this process have a link."""
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
        """Keep the blocks of an earlier link that an engine still reads; release all else.

        Returns:
            the slots without a known block that it still uses.
        """
        blocks = [*had.read.values(), *(one for found in had.pinned.values() for one in found)]
        known = {block.slot: block for block in blocks}
        read = self._engines[engine].read = {slot: known[slot] for slot in busy if slot in known}
        self.blocks.pin(read.values())
        self._release(had)
        return [slot for slot in busy if slot not in read]

    def _set_busy(self, engine: ProcessId, busy: Sequence[int]) -> None:
        """Keep the slots that an engine still uses because of an earlier link from being lent."""
        able = {*self._free, *self._busy, *self._resting} if busy else set()
        taken = {slot for slot in busy if slot in able}
        self.invalid += len(busy) - len(taken)
        self._engines[engine].busy = taken
        self._busy.update(taken)
        if taken:
            self._free = [slot for slot in self._free if slot not in taken]
        self._resting.drop(taken)

    def parted(self, engine: ProcessId) -> None:
        """Note that the link to an engine is gone. If the engine lives, it still uses its slots."""
        if (had := self._engines.pop(engine, None)) is not None:
            self._parted[engine] = had

    def gone(self, engine: ProcessId) -> None:
        """Note that the process of an engine has ended, and release what it had."""
        self._awaited.pop(engine, None)
        had = self._engines.pop(engine, None) or self._parted.pop(engine, None)
        if had is not None:
            self._release(had)

    def _release(self, had: Opened) -> None:
        """Unpin an engine's blocks, and let its slots rest: its ranks may still write to them."""
        unused = [*had.lent, *(slot for slot in had.busy if self._not_busy(slot))]
        self._resting.begin(unused)
        for pinned in (*had.pinned.values(), had.read.values()):
            self.blocks.unpin(pinned)

    # -- reading -----------------------------------------------------------------------------

    def find(self, engine: ProcessId, request_id: str, keys: Sequence[bytes]) -> list[int] | None:
        """Return the slot of each block, or `MISSING`, and pin the found blocks until `read`.

        Args:
            keys: keys of blocks of one prompt, in their order.

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
        """Unpin the blocks that were found for a request, if there are any."""
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
        """Take over blocks that an engine has written to its slots; see `BlocksWritten`.

        Returns:
            the blocks that the cache did not have.
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
        """Take back slots that were lent to an engine or named as busy by it."""
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

        A block that an engine writes to a slot which was lent before the reset is dropped, since it
        may have been computed before. An engine that was reset itself has returned all slots to
        which it was not writing.

        Args:
            closed: find no blocks and lend no slots until the next reset. Meanwhile the engines are
                reset one by one, and one that was reset must not get old blocks of one that was
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
        """Note that one engine less uses a busy slot; returns whether none uses it any more."""
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
        """Number of empty slots that are not lent."""
        return len(self._free) + len(self._resting)

    @property
    def rests(self) -> bool:
        """Whether slots rest, which will be free after some time without any message."""
        return bool(self._resting)

    @property
    def busy(self) -> int:
        """Number of slots without a known block that engines use because of an earlier link."""
        return len(self._busy)

    def lend(self) -> dict[ProcessId, list[int]]:
        """Lend slots to the engines that have too few of them; blocks are evicted to get them.

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
            # To save messages, slots are lent only when more than a quarter is used up.
            if enough - len(engine.lent) <= enough // 4:
                continue
            if slots := self._take(engine, enough):
                lent[name] = slots
        return lent

    def _take(self, engine: Opened, enough: int) -> list[int]:
        """Lend an engine the slots that it lacks, or as many as there are."""
        slots = []
        while len(engine.lent) < enough and (slot := self._empty()) is not None:
            engine.lent.add(slot)
            slots.append(slot)
        short = len(engine.lent) < enough
        self.short += short and not engine.short
        engine.short = short
        return slots

    def _empty(self) -> int | None:
        """Take an empty slot; evict a block if there is none. None if no block can be evicted."""
        if self._free:
            return self._free.pop()
        slot = self.blocks.evict()
        self.evicted += slot is not None
        return slot

    # -- reading from the disk -----------------------------------------------------------------

    def claim(self) -> int | None:
        """Take an empty slot to read a block from the disk into it; None if there is none."""
        slot = self._empty()
        self.claimed += slot is not None
        return slot

    def unclaim(self, slot: int) -> None:
        """Give back a claimed slot, because no block was read into it."""
        self.claimed -= 1
        self._free.append(slot)

    def fill(self, slot: int, key: bytes, sequence_hash: int, parent: int) -> Block:
        """Add a block that was read into a claimed slot; if it is in another slot already, return
        that one."""
        block = self.blocks.get(key)
        if block is not None:  # an engine has written it meanwhile
            self.unclaim(slot)
        else:
            self.claimed -= 1
            block = self.blocks.add(key, slot, sequence_hash, parent)
        self.blocks.use([block])
        return block

    def keep(self, engine: ProcessId, request_id: str, block: Block) -> None:
        """Pin a block that was read from the disk for a request, as `find` pins others."""
        self.found += 1
        self.blocks.pin([block])
        self._engines[engine].pinned.setdefault(request_id, []).append(block)
