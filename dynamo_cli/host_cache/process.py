"""The loop of the host cache: answers engines, lends them slots, and tells the router of blocks."""

from __future__ import annotations

import logging
import socket
import time

from dynamo_cli.config import ENGINE_ROLES, HostCacheConfig
from dynamo_cli.host.proctitle import set_title
from dynamo_cli.host_cache.state import HostCache
from dynamo_cli.ipc.codec import Decoder
from dynamo_cli.ipc.publisher import Publisher
from dynamo_cli.ipc.switchboard import Switchboard
from dynamo_cli.kv import hashes, slots
from dynamo_cli.messages.admin import Operate, Operated
from dynamo_cli.messages.flows import ToChild, ToHostCache
from dynamo_cli.messages.host_cache import (
    BlocksFound,
    BlocksRead,
    BlocksWritten,
    CacheRefused,
    FindBlocks,
    HostCacheStats,
    OpenCache,
    SlotsLent,
    SlotsReturned,
)
from dynamo_cli.messages.lifecycle import Phase, PhaseChange, SetPhase, Stop
from dynamo_cli.messages.routing import Resync
from dynamo_cli.topology import FRONTEND, ROUTER, ProcessId

STATS_INTERVAL_S = 0.25
PATIENCE_S = 60.0
"""Time after which the log says which engines keep the others from storing blocks, seconds."""

logger = logging.getLogger(__name__)


def main(process: ProcessId, config: HostCacheConfig, control: socket.socket) -> None:
    """Run the host cache until it is told to stop."""
    HostCacheProcess(process, config, control).run()


class HostCacheProcess:
    """The process of the host cache: a `HostCache` and its links."""

    def __init__(self, process: ProcessId, config: HostCacheConfig, control: socket.socket) -> None:
        self._process = process
        self._cache = HostCache(config.size_bytes, time.monotonic_ns)
        self._switchboard = Switchboard(control, self)
        self._publisher = Publisher(process.index, self._cache.blocks.holdings, self._switchboard)
        self._decoder = Decoder(ToHostCache)
        self._searches: list[tuple[ProcessId, tuple[str, list[bytes]]]] = []
        self._report_due_s = 0.0
        self._warning_due_s = time.monotonic() + PATIENCE_S
        self._changed = True
        self._stopping = False

    def run(self) -> None:
        """Serve until the supervisor sends `Stop`."""
        self._switchboard.report(PhaseChange(Phase.READY))
        while not self._stopping:
            self.advance(self._timeout_s())
        self._switchboard.close()

    def _timeout_s(self) -> float | None:
        """How long the next round may wait for a message; None is for ever."""
        due = self._changed or self._cache.awaited or self._cache.rests
        return STATS_INTERVAL_S if due else None

    def advance(self, timeout_s: float | None) -> None:
        """Handle the messages that come within `timeout_s`, and do what is due by now."""
        self._switchboard.poll(timeout_s)
        self._answer()
        for engine, lent in self._cache.lend().items():
            self._switchboard.owe(engine, SlotsLent(slots.pack(lent)))
        self._publisher.publish()
        self._report()

    def _answer(self) -> None:
        """Answer the engines' questions.

        An engine may ask because another has told it that blocks are written. That was written to
        another link, before; so each link is read once more.
        """
        if not self._searches:
            return
        self._switchboard.poll(0)
        searches, self._searches = self._searches, []
        for engine, (request_id, keys) in searches:
            found = self._cache.find(engine, request_id, keys)
            if found is not None:
                self._switchboard.owe(engine, BlocksFound(request_id, slots.pack(found)))

    def _report(self) -> None:
        now = time.monotonic()
        self._warn(now)
        if not self._changed or now < self._report_due_s:
            return
        self._switchboard.send(FRONTEND, self._stats())
        self._report_due_s = now + STATS_INTERVAL_S
        self._changed = False

    def _stats(self) -> HostCacheStats:
        cache = self._cache
        return HostCacheStats(
            slots=cache.slots,
            slot_bytes=cache.slot_bytes,
            used=len(cache.blocks),
            pinned=cache.blocks.pinned,
            lent=cache.lent,
            wanted=cache.wanted,
            found=cache.found,
            written=cache.written,
            duplicates=cache.duplicates,
            evicted=cache.evicted,
            short=cache.short,
            refused=cache.refused,
            refused_sends=self._switchboard.refused_sends(),
            sent_ns=time.monotonic_ns(),
            invalid=cache.invalid,
        )

    def _warn(self, now_s: float) -> None:
        """Say once which engines keep the others from storing blocks."""
        if self._cache.awaited and now_s >= self._warning_due_s:
            self._warning_due_s = float("inf")
            logger.warning(
                "no engine can store blocks in the host cache before %s has said which of them it "
                "still uses; blocks are not shared until then.",
                " and ".join(self._cache.awaited),
            )

    # -- switchboard handler ---------------------------------------------------------------

    def on_message(self, peer: ProcessId, payload: bytes) -> None:
        """Handle a message of an engine or of the router."""
        cache = self._cache
        match self._decoder(payload):
            case OpenCache(slot_bytes, layout, reserve, busy):
                if refusal := cache.open(peer, slot_bytes, layout, slots.unpack(busy), reserve):
                    self._switchboard.owe(peer, CacheRefused(refusal))
            case FindBlocks(request_id, keys):
                self._searches.append((peer, (request_id, keys)))
            case BlocksRead(request_id):
                self._forget(peer, request_id)
                cache.read(peer, request_id)
            case BlocksWritten(keys, written, blocks, parents):
                cache.wrote(
                    peer,
                    keys,
                    slots.unpack(written),
                    hashes.unpack(blocks),
                    hashes.unpack(parents),
                )
            case SlotsReturned(returned):
                cache.returned(peer, slots.unpack(returned))
            case Resync():
                self._publisher.resync()
            case Operate(call_id, closed=closed):  # an operator's only order to it: to reset
                self._switchboard.owe(peer, Operated(call_id, cache.reset(closed=closed)))
        self._changed = True

    def on_link(self, peer: ProcessId) -> None:
        """A peer has started: an engine is awaited, and a router gets everything."""
        if peer.role in ENGINE_ROLES:
            self._cache.linked(peer)
        elif peer == ROUTER:
            self._publisher.resync()
        self._changed = True

    def on_unlink(self, peer: ProcessId, reason: str) -> None:
        """A peer's process has ended: an engine asks for nothing any more."""
        if peer.role in ENGINE_ROLES:
            self._forget(peer)
            self._cache.gone(peer)
        elif peer == FRONTEND and self._cache.closed:  # its order to open will not come
            self._cache.reset()
        self._changed = True

    def _forget(self, engine: ProcessId, request_id: str | None = None) -> None:
        """Drop questions that need no answer any more: of one request, or all of an engine."""
        self._searches = [
            (peer, question)
            for peer, question in self._searches
            if peer != engine or request_id not in (None, question[0])
        ]

    def on_control(self, message: ToChild) -> None:
        """Do what the supervisor says."""
        match message:
            case Stop():
                self._stopping = True
            case SetPhase(phase):
                # The supervisor sends it after the links to all processes that were there before.
                self._cache.all_linked()
                set_title(self._process, phase)
