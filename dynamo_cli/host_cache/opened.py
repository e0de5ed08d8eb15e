"""What the host cache knows of one engine that uses it."""

from __future__ import annotations

from dataclasses import dataclass, field

from dynamo_cli.host_cache.blocks import Block

MAX_LENT = 4096
"""Most slots that are lent to one engine."""


@dataclass(slots=True)
class Opened:
    """What an engine may read and write.

    Attributes:
        lent: empty slots that it may write to.
        busy: slots without a known block that it still reads or writes. It got them over an earlier
            link, to this process or to an earlier host cache process.
        read: blocks that it still reads and found over an earlier link, by slot.
        pinned: blocks that it found and may be reading, by request id.
        reserve: number of slots that it should have been lent.
        stale: slots of `lent` that it had when the cache was reset. A block that it writes there
            may have been computed before the reset, so it is not kept.
        short: whether it has fewer slots than it should, because no block could be evicted.
    """

    lent: set[int] = field(default_factory=set)
    busy: set[int] = field(default_factory=set)
    read: dict[int, Block] = field(default_factory=dict)
    pinned: dict[str, list[Block]] = field(default_factory=dict)
    reserve: int = MAX_LENT
    stale: set[int] = field(default_factory=set)
    short: bool = False
