"""Reports what an engine has copied to and from the host cache."""

from __future__ import annotations

import time

from dynamo_cli.engines.cache_client import CacheClient
from dynamo_cli.ipc.switchboard import Switchboard
from dynamo_cli.messages.host_cache import HostCopies
from dynamo_cli.topology import FRONTEND, ROUTER, ProcessId, Role

INTERVAL_S = 0.25
"""Shortest time between two reports."""

LISTENERS = (FRONTEND, ROUTER)


class CopyReports:
    """Tells frontend and router the totals of an engine's copies, when they have changed.

    Args:
        process: the process of the engine.
        client: the engine's client of the host cache, which counts the copies.
        switchboard: the links of the process.
    """

    def __init__(self, process: ProcessId, client: CacheClient, switchboard: Switchboard) -> None:
        self._process = process
        self._client = client
        self._switchboard = switchboard
        self._told: dict[ProcessId, HostCopies] = {}
        self._due_s = 0.0

    def _report(self) -> HostCopies:
        prefill = self._process.role is Role.PREFILL_WORKER
        return self._client.copies(self._process.index, prefill=prefill)

    def _news(self, report: HostCopies) -> list[ProcessId]:
        """The linked listeners that were not sent this report."""
        links = self._switchboard.links
        return [peer for peer in LISTENERS if peer in links and self._told.get(peer) != report]

    def timeout_s(self) -> float | None:
        """How long the process may wait for messages, seconds; None if there is no new report."""
        if not self._news(self._report()):
            return None
        return max(self._due_s - time.monotonic(), 0.0)

    def tick(self) -> None:
        """Send a report if it is new and `INTERVAL_S` has passed since the last one."""
        now = time.monotonic()
        if now < self._due_s:
            return
        self._due_s = now + INTERVAL_S
        report = self._report()
        for peer in self._news(report):
            if self._switchboard.send(peer, report):
                self._told[peer] = report

    def forget(self, peer: ProcessId) -> None:
        """Forget what this peer was told, so that its next process gets a report at once."""
        self._told.pop(peer, None)
