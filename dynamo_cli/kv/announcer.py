"""Makes the messages that tell the router what a cache holds: changes, or all blocks. Pure."""

from __future__ import annotations

from dynamo_cli.kv import hashes
from dynamo_cli.kv.holdings import Held
from dynamo_cli.messages.routing import KvEvents


class CacheAnnouncer:
    """Makes the numbered messages of one worker, or of the host cache, to one router.

    Args:
        worker: index of the process among those of its kind.
        holdings: what the cache holds, kept current by its owner.
    """

    def __init__(self, worker: int, holdings: Held) -> None:
        self._worker = worker
        self._holdings = holdings
        self._sequence = 0

    def changes(self, now_ns: int) -> KvEvents | None:
        """The blocks that were stored and removed since the last message; None if none were."""
        change = self._holdings.take()
        if not change:
            return None
        return self._message(change.stored, change.removed, now_ns, whole=False)

    def whole(self, now_ns: int) -> KvEvents:
        """All blocks in the cache; later changes are relative to this message."""
        self._holdings.take()
        return self._message(self._holdings.all(), [], now_ns, whole=True)

    def _message(
        self, stored: list[int], removed: list[int], now_ns: int, *, whole: bool
    ) -> KvEvents:
        self._sequence += 1
        return KvEvents(
            worker=self._worker,
            sequence=self._sequence,
            stored=hashes.pack(stored),
            removed=hashes.pack(removed),
            whole=whole,
            created_ns=now_ns,
            unknown=dict(self._holdings.unknown),
        )
