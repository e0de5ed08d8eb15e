"""Keeps the router informed of the cache of this process."""

from __future__ import annotations

import time

from dynamo_cli.ipc.switchboard import Switchboard
from dynamo_cli.kv.announcer import CacheAnnouncer
from dynamo_cli.kv.holdings import Held
from dynamo_cli.topology import ROUTER


class Publisher:
    """Sends changes of the cache, and all of it to a router that is new or has missed a change.

    Args:
        worker: index of this process among those of its kind.
        holdings: what the cache holds; None if the router needs no KV events.
        switchboard: links of this process.
    """

    def __init__(self, worker: int, holdings: Held | None, switchboard: Switchboard) -> None:
        self._announcer = CacheAnnouncer(worker, holdings) if holdings is not None else None
        self._switchboard = switchboard
        self._whole_due = True

    def publish(self) -> None:
        """Send what changed; everything if the link has refused the last message."""
        if self._announcer is None or ROUTER not in self._switchboard.links:
            return
        now = time.monotonic_ns()
        message = self._announcer.whole(now) if self._whole_due else self._announcer.changes(now)
        if message is not None:
            self._whole_due = not self._switchboard.send(ROUTER, message)

    def resync(self) -> None:
        """Send everything: to a new router, or to one that asks for it."""
        self._whole_due = True
        self.publish()
