"""What one engine has of the host cache."""

from __future__ import annotations

from dataclasses import dataclass, field

from dynamo_cli.host_cache.blocks import Block

MAX_LENT = 4096
"""Most slots that are lent to one engine."""


@dataclass(slots=True)
class Opened:
    """What an engine has of the cache.

    Attributes:
        lent: empty slots that it may write to.
        busy: slots that it still reads or writes because an earlier link let it, to this process or
            to an earlier one.
        read: blocks that it still reads because an earlier link let it, by their slots.
        pinned: blocks that it reads, by request id.
        reserve: how many slots it should be lent in advance.
        stale: those of `lent` that it had when the cache was reset: what it writes there may have
            been computed before.
        short: whether it has fewer slots than it should have, because none could be evicted.
    """

    lent: set[int] = field(default_factory=set)
    busy: set[int] = field(default_factory=set)
    read: dict[int, Block] = field(default_factory=dict)
    pinned: dict[str, list[Block]] = field(default_factory=dict)
    reserve: int = MAX_LENT
    stale: set[int] = field(default_factory=set)
    short: bool = False
