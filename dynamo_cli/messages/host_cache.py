"""The host cache: what engines ask it and tell it about KV blocks in the memory of the host.

The memory is divided into slots of one size; a slot holds one KV block of all layers and all ranks.
Engines copy blocks in and out themselves. The host cache only decides which slot holds what.
Messages carry numbers of slots as `kv.slots` packs them, and sequence hashes as `kv.hashes` does.
"""

from __future__ import annotations

from enum import IntEnum

import msgspec

from dynamo_cli.messages.base import Message

MISSING = -1
"""Stands for a slot in `BlocksFound` where the host cache does not have the block."""

# -- worker and prefill worker -> host cache -------------------------------------------------


class OpenCache(Message, frozen=True):
    """An engine wants to use the memory; this is its first message on every new link.

    Attributes:
        slot_bytes: size of one KV block over all layers and ranks, rounded up to whole pages.
        layout: what else engines must have in common to read each other's blocks, as text.
        reserve: how many empty slots it should be lent in advance, so that the blocks of a few
            steps have room at once.
        busy: slots that the engine got over an earlier link and still reads or writes. They are
            lent to nobody until `SlotsReturned` names them.
    """

    slot_bytes: int
    layout: str
    reserve: int = 0
    busy: bytes = b""


class FindBlocks(Message, frozen=True):
    """Which slots hold these blocks? Answered by `BlocksFound`.

    Slots that are found stay as they are until `BlocksRead` with the same name.

    Attributes:
        name: the engine's name of the question; it uses each only once.
        keys: the engines' keys of the prompt's blocks, in their order.
        block_us: time in which the engine computes one block, microseconds; 0 if it does not know.
            The answer waits for blocks from the disk no longer than it takes to compute them.
    """

    name: str
    keys: list[bytes]
    block_us: int = 0


class BlocksRead(Message, frozen=True):
    """The engine does not read the slots that were found for this question any more."""

    name: str


class BlocksWritten(Message, frozen=True):
    """Blocks are complete in slots that were lent to this engine. Others can read them now.

    If another engine has written the same block before, the slot becomes empty again.

    Attributes:
        keys: the engines' keys of the blocks.
        slots: the slot of each block.
        blocks: sequence hash of each; 0 where the engine does not know it. Empty if the router
            does not use sequence hashes.
        parents: sequence hash of the block before each; as `blocks`.
    """

    keys: list[bytes]
    slots: bytes
    blocks: bytes = b""
    parents: bytes = b""


class SlotsReturned(Message, frozen=True):
    """The engine does not use these slots any more, which it was lent or has named as busy."""

    slots: bytes


# -- host cache -> worker and prefill worker -------------------------------------------------


class SlotsLent(Message, frozen=True):
    """Empty slots that this engine may write to. They add to those that it has."""

    slots: bytes


class BlocksFound(Message, frozen=True):
    """Answer to `FindBlocks`.

    Attributes:
        slots: the slot of each block; `MISSING` where there is none.
    """

    name: str
    slots: bytes


class CacheRefused(Message, frozen=True):
    """Answer to `OpenCache`: this engine cannot use the host cache, and goes on without it.

    Attributes:
        reason: one sentence for the log.
    """

    reason: str


# -- host cache -> router --------------------------------------------------------------------


class Tier(IntEnum):
    """What `KvEvents` of a host cache are about."""

    MEMORY = 0
    REACH = 1  # memory and disk together


def holder(machine: int, tier: Tier) -> int:
    """Return the `worker` of `KvEvents` of the host cache of a machine."""
    return machine * len(Tier) + tier


class DiskReads(Message, frozen=True):
    """How long reading a block from the disk takes.

    Attributes:
        block_s: time per block, seconds, while blocks are read.
        machine: number of the host cache, and of its machine.
    """

    block_s: float
    machine: int = 0


# -- telemetry -------------------------------------------------------------------------------


class DiskStats(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What the disk below the memory holds and has done. Counters are totals since the start.

    Attributes:
        places: blocks for which it has room; 0 until an engine has said how large they are.
        used: blocks on disk, many of which are in memory too.
        wanted: blocks that engines asked for and that were only on disk.
        found: of these, blocks that were read in time.
        read, read_s: blocks that were read, and the time in which any were being read, seconds.
        written, write_s: blocks that were written, and the time of that, likewise.
        evicted: blocks that were dropped to make room, or by a reset.
        dropped: blocks that were not written, not read or not waited for, by reason; see
            `host_cache.disk`.
        off: why the disk is not used any more; empty while it is used.
    """

    places: int = 0
    used: int = 0
    wanted: int = 0
    found: int = 0
    read: int = 0
    read_s: float = 0.0
    written: int = 0
    write_s: float = 0.0
    evicted: int = 0
    dropped: dict[str, int] = msgspec.field(default_factory=dict)
    off: str = ""


class HostCacheStats(Message, frozen=True):
    """What the host cache holds and has done, host cache -> frontend; a few times a second at most.

    Counters are totals since it was started.

    Attributes:
        slots: number of slots; 0 until an engine has said how large they are.
        slot_bytes: size of each.
        used: slots that hold a block.
        pinned: slots that an engine reads, or whose block is being written to the disk.
        lent: empty slots that engines may write to.
        wanted: blocks that engines have asked for.
        found: of these, blocks that it had.
        written: blocks that engines have stored.
        duplicates: of these, blocks that it had already.
        evicted: blocks that were dropped to make room, or by a reset.
        short: times that an engine could not be lent as many slots as it should have.
        refused: number of times that it has refused an engine.
        invalid: slots and messages of engines that were not valid, and were ignored.
        disk: the tier on disk; None if there is none.
        machine: number of the host cache, and of its machine.
    """

    slots: int
    slot_bytes: int
    used: int
    pinned: int
    lent: int
    wanted: int
    found: int
    written: int
    duplicates: int
    evicted: int
    short: int
    refused: int
    refused_sends: int = 0
    sent_ns: int = 0
    invalid: int = 0
    disk: DiskStats | None = None
    machine: int = 0


class HostCopies(Message, frozen=True):
    """What an engine has copied, engine -> frontend and router.

    Sent when it has changed, a few times a second at most. Counters are totals since the engine was
    started.

    Attributes:
        prefill: whether it is a prefill worker.
        worker: index among its kind.
        loaded_blocks, loaded_bytes, load_s: blocks copied from the host's memory to the engine.
        stored_blocks, stored_bytes, store_s: blocks copied to the host's memory.
        block_tokens: tokens of one block.
        dropped: blocks that were not stored or not looked up, by reason.
        waited_s: time that requests have waited for `BlocksFound`, seconds.
        refused: whether the host cache has refused this engine, which loads nothing from it.
    """

    prefill: bool
    worker: int
    loaded_blocks: int
    loaded_bytes: int
    load_s: float
    stored_blocks: int
    stored_bytes: int
    store_s: float
    block_tokens: int
    dropped: dict[str, int]
    waited_s: float = 0.0
    refused: bool = False
