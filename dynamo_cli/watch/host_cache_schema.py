"""The host cache at one moment, as a part of ``/dynamo/snapshot``."""

from __future__ import annotations

import msgspec


class HostCopiesView(msgspec.Struct, frozen=True):
    """What an engine has copied from and to the host's memory, over all restarts of its process.

    Attributes:
        load_s, store_s: time that the copies took.
        waited_s: time that requests waited until they knew what the host cache has.
    """

    prefill: bool
    worker: int
    loaded_blocks: int
    loaded_bytes: int
    load_s: float
    stored_blocks: int
    stored_bytes: int
    store_s: float
    waited_s: float


class DiskCacheView(msgspec.Struct, frozen=True):
    """The tier on disk; counters are totals over all restarts; see `DiskStats`.

    Attributes:
        places, used: blocks for which it has room, and blocks that it holds.
        *_bytes_per_s: rates over the last 10 s.
        dropped: blocks that were not written or not waited for, by reason.
    """

    places: int
    used: int
    wanted: int
    found: int
    read: int
    read_s: float
    written: int
    write_s: float
    evicted: int
    read_bytes_per_s: float
    written_bytes_per_s: float
    dropped: dict[str, int]
    off: str


class HostCacheShare(msgspec.Struct, frozen=True):
    """The host cache of one machine.

    Attributes:
        process: its name.
        slots, used: number of slots, and of those that hold a block.
        wanted, found: blocks that engines have asked for since it was started, or since its node
            was lost for a moment, and that it had.
    """

    process: str
    slots: int
    used: int
    wanted: int
    found: int


class HostCacheView(msgspec.Struct, frozen=True):
    """All host caches together, of which each machine with engines has one; see `HostCacheStats`.

    Counters are totals over all restarts.

    Attributes:
        slots, slot_bytes: number of slots and size of each; 0 until an engine has opened it.
        used, pinned, lent: slots that hold a block, that are read, and that may be written to.
        found_ratio: blocks found / blocks asked for; None before any.
        recent_found_ratio: the same over the last 60 s.
        loaded_tokens: prompt tokens whose blocks were loaded instead of computed.
        *_bytes_per_s: rates over the last 10 s.
        dropped: blocks that were not stored or not looked up, by reason.
        engines: copies of each engine.
        disk: the tier on disk; None if there is none.
        caches: each one for itself.
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
    invalid: int
    refused_sends: int
    found_ratio: float | None
    recent_found_ratio: float | None
    loaded_tokens: int
    loaded_bytes_per_s: float
    stored_bytes_per_s: float
    dropped: dict[str, int]
    engines: list[HostCopiesView]
    disk: DiskCacheView | None = None
    caches: list[HostCacheShare] = []
