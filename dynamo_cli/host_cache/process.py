"""The loop of the host cache: answers engines, lends them slots, and tells the router of blocks."""

from __future__ import annotations

import logging
import socket
import time

from dynamo_cli.config import ENGINE_ROLES, HostCacheConfig
from dynamo_cli.host.proctitle import set_title
from dynamo_cli.host_cache.disk_tier import DiskTier
from dynamo_cli.host_cache.state import HostCache
from dynamo_cli.ipc.codec import Decoder
from dynamo_cli.ipc.publisher import Publisher
from dynamo_cli.ipc.switchboard import Switchboard
from dynamo_cli.kv import hashes, slots
from dynamo_cli.kv.holdings import Holdings
from dynamo_cli.messages.admin import Operate, Operated
from dynamo_cli.messages.flows import ToChild, ToHostCache
from dynamo_cli.messages.host_cache import (
    BlocksFound,
    BlocksRead,
    BlocksWritten,
    CacheRefused,
    DiskReads,
    FindBlocks,
    HostCacheStats,
    OpenCache,
    SlotsLent,
    SlotsReturned,
    Tier,
    holder,
)
from dynamo_cli.messages.lifecycle import PeerEnded, Phase, PhaseChange, SetPhase, Stop
from dynamo_cli.messages.routing import Resync
from dynamo_cli.topology import FRONTEND, ROUTER, ProcessId
from dynamo_cli.units import SECOND_NS, US_NS

STATS_INTERVAL_S = 0.25
PATIENCE_S = 60.0
"""Time after which the log names the engines that the host cache waits for, seconds."""

logger = logging.getLogger(__name__)


def main(process: ProcessId, config: HostCacheConfig, control: socket.socket) -> None:
    """Run the host cache until it is told to stop."""
    HostCacheProcess(process, config, control).run()


class HostCacheProcess:
    """The process of the host cache: a `HostCache` and its links."""

    def __init__(self, process: ProcessId, config: HostCacheConfig, control: socket.socket) -> None:
        self._process = process
        clock = time.monotonic_ns
        reach = Holdings(block_size=0) if config.disk is not None else None
        self._cache = HostCache(config.size_bytes, clock, reach)
        self._switchboard = Switchboard(control, self)
        self._publishers = [
            Publisher(
                holder(process.index, Tier.MEMORY), self._cache.blocks.holdings, self._switchboard
            )
        ]
        self._disk_tier: DiskTier | None = None
        if reach is not None:
            self._publishers.append(
                Publisher(holder(process.index, Tier.REACH), reach, self._switchboard)
            )
            self._disk_tier = DiskTier(config, self._cache, reach, clock, self._switchboard.wake_by)
        self._decoder = Decoder(ToHostCache)
        self._searches: list[tuple[ProcessId, FindBlocks]] = []
        self._report_due_s = 0.0
        self._warning_due_s = time.monotonic() + PATIENCE_S
        self._changed = True
        self._stopping = False

    def run(self) -> None:
        """Serve until the supervisor sends `Stop`."""
        self._switchboard.report(PhaseChange(Phase.READY))
        while not self._stopping:
            self.advance(self._timeout_s())
        if self._disk_tier is not None:
            self._disk_tier.close()
        self._switchboard.close()

    def _timeout_s(self) -> float | None:
        """How long the next round may wait for a message, seconds; None means without limit."""
        due = self._changed or self._cache.awaited or self._cache.rests
        timeout_s = STATS_INTERVAL_S if due else None
        answer_ns = self._disk_tier.disk.waits.due_ns if self._disk_tier is not None else None
        if answer_ns is None:
            return timeout_s
        wait_s = max(answer_ns - time.monotonic_ns(), 0) / SECOND_NS
        return wait_s if timeout_s is None else min(wait_s, timeout_s)

    def advance(self, timeout_s: float | None) -> None:
        """Handle the messages that come within `timeout_s`, and do what is due by now."""
        self._switchboard.poll(timeout_s)
        if self._disk_tier is not None:
            self._changed |= self._disk_tier.take_done()
        self._answer()
        for engine, lent in self._cache.lend().items():
            self._switchboard.owe(engine, SlotsLent(slots.pack(lent)))
        if self._disk_tier is not None:
            self._disk_tier.begin()
        for publisher in self._publishers:
            publisher.publish()
        self._report()

    def _answer(self) -> None:
        """Answer the engines' questions.

        A decode worker asks for blocks after a prefill worker has told it that they are written.
        The prefill worker has told the host cache before, but on another link, which may not have
        been read yet. So all links are read once more before the answers.
        """
        if self._searches:
            self._switchboard.poll(0)
            searches, self._searches = self._searches, []
            for engine, asked in searches:
                self._find(engine, asked)
        if self._disk_tier is not None:
            for engine, name, found in self._disk_tier.disk.waits.answers():
                self._switchboard.owe(engine, BlocksFound(name, slots.pack(found)))

    def _find(self, engine: ProcessId, asked: FindBlocks) -> None:
        """Answer a question, unless blocks have to come from the disk first."""
        name, keys = asked.name, asked.keys
        found = self._cache.find(engine, name, keys)
        if found is None:
            return
        if self._disk_tier is not None:
            block_ns = asked.block_us * US_NS
            if self._disk_tier.disk.search(engine, name, keys, found, block_ns):
                return
        self._switchboard.owe(engine, BlocksFound(name, slots.pack(found)))

    def _report(self) -> None:
        now = time.monotonic()
        self._warn(now)
        if not self._changed or now < self._report_due_s:
            return
        self._switchboard.send(FRONTEND, self._stats())
        if self._disk_tier is not None and (block_s := self._disk_tier.disk.block_s) is not None:
            self._switchboard.send(ROUTER, DiskReads(block_s, self._process.index))
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
            disk=self._disk_tier.disk.stats() if self._disk_tier is not None else None,
            machine=self._process.index,
        )

    def _warn(self, now_s: float) -> None:
        """Log once which engines keep all engines from storing blocks."""
        if self._cache.awaited and now_s >= self._warning_due_s:
            self._warning_due_s = float("inf")
            logger.warning(
                "the host cache stores no blocks yet: it waits until %s has said which slots it "
                "still uses. If this lasts, kill that process; it is started again.",
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
                if self._disk_tier is not None:
                    self._disk_tier.opened()
            case FindBlocks() as asked:
                self._searches.append((peer, asked))
            case BlocksRead(request_id):
                self._forget(peer, request_id)
                cache.read(peer, request_id)
            case BlocksWritten(keys, written, blocks, parents):
                names = hashes.unpack(blocks), hashes.unpack(parents)
                new = cache.wrote(peer, keys, slots.unpack(written), *names)
                if self._disk_tier is not None:
                    self._disk_tier.disk.stored(new)
            case SlotsReturned(returned):
                cache.returned(peer, slots.unpack(returned))
            case Resync():
                self._resync()
            case Operate(call_id, closed=closed):  # operators can only reset it
                if self._disk_tier is not None:
                    self._disk_tier.disk.reset()
                self._switchboard.owe(peer, Operated(call_id, cache.reset(closed=closed)))
        self._changed = True

    def on_link(self, peer: ProcessId) -> None:
        """Note a new link to an engine; tell a new router of all blocks."""
        if peer.role in ENGINE_ROLES:
            self._cache.linked(peer)
        elif peer == ROUTER:
            self._resync()
        self._changed = True

    def _resync(self) -> None:
        for publisher in self._publishers:
            publisher.resync()

    def on_unlink(self, peer: ProcessId, reason: str) -> None:
        """Drop the questions of an engine whose link is gone; it may live and use its slots."""
        if peer.role in ENGINE_ROLES:
            self._forget(peer)
            self._cache.parted(peer)
        elif peer == FRONTEND and self._cache.closed:  # it cannot open it any more
            self._cache.reset()
        self._changed = True

    def _forget(self, engine: ProcessId, request_id: str | None = None) -> None:
        """Drop the questions of an engine about one request, or all of them if `request_id` is
        None."""
        self._searches = [
            (peer, asked)
            for peer, asked in self._searches
            if peer != engine or request_id not in (None, asked.name)
        ]
        if self._disk_tier is not None:
            self._disk_tier.disk.waits.forget(engine, request_id)

    def on_control(self, message: ToChild) -> None:
        """Do what the supervisor says."""
        match message:
            case Stop():
                self._stopping = True
            case PeerEnded(peer):
                self._cache.gone(ProcessId.parse(peer))
                self._changed = True
            case SetPhase(phase):
                # The supervisor sends it after the links to all processes that were there before.
                self._cache.all_linked()
                set_title(self._process, phase)
