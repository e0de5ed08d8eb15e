"""The host cache of a replay: the one that serves, and messages that take no time. Pure."""

from __future__ import annotations

from collections.abc import Callable

from dynamo_cli.engines.cache_client import CacheClient, FromHostCache
from dynamo_cli.engines.mock.profile import Profile
from dynamo_cli.engines.mock.tier import MockHostCache, client_of
from dynamo_cli.host_cache.state import HostCache
from dynamo_cli.kv import hashes, slots
from dynamo_cli.kv.announcer import CacheAnnouncer
from dynamo_cli.messages.base import Message
from dynamo_cli.messages.host_cache import (
    BlocksFound,
    BlocksRead,
    BlocksWritten,
    CacheRefused,
    FindBlocks,
    OpenCache,
    SlotsLent,
    SlotsReturned,
)
from dynamo_cli.messages.routing import KvEvents
from dynamo_cli.topology import HOST_CACHE, ProcessId, Role


class ReplayHostCache:
    """One host cache for all workers.

    Args:
        size_bytes: its memory.
        profile: times and sizes of every engine.
        workers: number of workers.

    Attributes:
        cache: the host cache.
        tiers: what each worker's engine uses.
    """

    def __init__(self, size_bytes: int, profile: Profile, workers: int) -> None:
        self.cache = HostCache(size_bytes, lambda: 0)  # no engine dies
        self.cache.all_linked()
        self._clients: dict[ProcessId, CacheClient] = {}
        self.tiers = [self._tier(index, profile) for index in range(workers)]
        self._announcer = CacheAnnouncer(HOST_CACHE.index, self.cache.blocks.holdings)

    def _tier(self, index: int, profile: Profile) -> MockHostCache:
        process = ProcessId(Role.WORKER, index)
        client = self._clients[process] = client_of(profile)

        def deliver(message: Message) -> bool:
            handle(self.cache, process, message, client.apply)
            return True

        client.connect(deliver, deliver)
        client.opened()
        return MockHostCache(client, profile)

    def lend(self) -> None:
        """Lend slots to the engines that have used up theirs."""
        for process, lent in self.cache.lend().items():
            self._clients[process].apply(SlotsLent(slots.pack(lent)))

    @property
    def dropped_blocks(self) -> int:
        """Computed blocks for which there was no slot."""
        return sum(tier.client.dropped.total() for tier in self.tiers)

    def holds(self) -> KvEvents:
        """Return all that the host cache holds, which is the first message to a router."""
        return self._announcer.whole(0)

    def events(self, now_ns: int) -> KvEvents | None:
        """Return what changed in the host cache; None if nothing."""
        return self._announcer.changes(now_ns)


def handle(
    cache: HostCache,
    engine: ProcessId,
    message: Message,
    answer: Callable[[FromHostCache], None],
) -> None:
    """Handle a message of an engine, and answer it, as `host_cache.process` does."""
    match message:
        case OpenCache(slot_bytes, layout, reserve):
            if refusal := cache.open(engine, slot_bytes, layout, reserve=reserve):
                answer(CacheRefused(refusal))
        case FindBlocks(name, keys):
            found = cache.find(engine, name, keys)
            if found is not None:
                answer(BlocksFound(name, slots.pack(found)))
        case BlocksRead(name):
            cache.read(engine, name)
        case BlocksWritten(keys, written, blocks, parents):
            names = hashes.unpack(blocks), hashes.unpack(parents)
            cache.wrote(engine, keys, slots.unpack(written), *names)
        case SlotsReturned(returned):
            cache.returned(engine, slots.unpack(returned))
