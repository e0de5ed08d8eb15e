"""A simulated engine's use of the host cache: it loads blocks while steps go on, and stores. Pure.

If the host cache has more of a prompt than the engine's own cache, the request gets blocks for all
of its prompt and waits until the blocks are loaded. Other requests go on meanwhile. The blocks that
a step computes are stored at its end. Copies take time, but move no data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from dynamo_cli.engines.cache_client import STEPS_AHEAD, CacheClient
from dynamo_cli.engines.mock.profile import PS, Profile, StepTimes
from dynamo_cli.engines.mock.request import SimRequest
from dynamo_cli.kv import hashes
from dynamo_cli.units import SECOND_NS

PS_PER_NS = PS // SECOND_NS
MAX_SLOTS = 20_000_000
"""Most slots of a simulated host cache. The slots have no memory, but the records of each slot take
a few hundred bytes."""


def client_of(profile: Profile) -> CacheClient:
    """The host cache's client of an engine with this profile."""
    return CacheClient(
        profile.slot_bytes,
        f"simulated {profile.name}",
        profile.block_size,
        reserve=STEPS_AHEAD * -(-profile.max_num_batched_tokens // profile.block_size),
    )


@dataclass(slots=True)
class MockHostCache:
    """The host cache as one engine uses it.

    Args:
        client: the engine's client of the host cache.
        profile: has the times of loads.
        min_tokens: shorter prompts are neither looked up nor stored.
        speedup: factor by which the engine is faster than its profile, for reports.

    Attributes:
        loading: by request id, when its load ends in picoseconds, the request, and the number of
            its blocks.
    """

    client: CacheClient
    profile: Profile
    min_tokens: int = 0
    speedup: float = 1.0
    loading: dict[str, tuple[int, SimRequest, int]] = field(default_factory=dict)
    _computed: dict[int, int] = field(default_factory=dict)  # block -> the one before it
    _speed: StepTimes = field(init=False)

    def __post_init__(self) -> None:
        self._speed = StepTimes.of(self.profile)

    def find(self, request: SimRequest, cached: int, usable: int) -> int | None:
        """Number of leading blocks of a request that need not be computed, at least `cached`.

        Args:
            cached: leading blocks that are in the engine's own cache.
            usable: most blocks that the request can use.

        Returns:
            None if the host cache has not answered yet.
        """
        if request.prompt_tokens < self.min_tokens:
            request.in_host = None
            return cached
        keys = [hashes.pack([name]) for name in request.hashes]
        slots = self.client.find(request.request_id, keys)
        if slots is None:
            return None
        request.in_host = _leading(keys, slots)
        depth = min(request.in_host, usable)
        if depth > cached:
            return depth
        self.client.end(request.request_id)
        return cached

    def load(self, request: SimRequest, blocks: int, now_ps: int) -> None:
        """Begin to load the last `blocks` of a request that were found."""
        ps = self._speed.load_ps(blocks * self.profile.block_size)
        self.client.loaded.blocks += blocks
        self.client.loaded.nbytes += blocks * self.client.slot_bytes
        self.client.loaded.nanoseconds += round(ps / PS_PER_NS / self.speedup)
        self.loading[request.request_id] = now_ps + ps, request, blocks

    def take_loaded(self, now_ps: int) -> list[tuple[SimRequest, int]]:
        """Take the requests whose load has ended, each with its number of loaded blocks."""
        there = [
            (request, blocks)
            for due_ps, request, blocks in self.loading.values()
            if due_ps <= now_ps
        ]
        for request, _ in there:
            self.forget(request.request_id)
        return there

    def forget(self, request_id: str) -> bool:
        """Release what was found for a request; returns whether it was loading."""
        self.client.end(request_id)
        return self.loading.pop(request_id, None) is not None

    @property
    def next_ps(self) -> int | None:
        """When the next load ends, in picoseconds; None if none runs."""
        return min((due_ps for due_ps, _, _ in self.loading.values()), default=None)

    def computed(self, request: SimRequest, start: int, end: int) -> None:
        """Note that blocks start..end-1 of a request are full, to store those that the host cache
        did not have."""
        if request.in_host is None:
            return
        for place in range(max(start, request.in_host), end):
            parent = request.hashes[place - 1] if place else hashes.ROOT
            self._computed[request.hashes[place]] = parent

    def reset(self) -> None:
        """Forget what was computed or found before, because the engine's cache was reset."""
        self._computed.clear()
        self.client.reset(self.loading)

    def store(self) -> None:
        """Store what was computed, at the end of a step."""
        if not self._computed:
            return
        slots = self.client.take(len(self._computed))
        blocks = list(self._computed)[: len(slots)]
        parents = [self._computed[block] for block in blocks]
        self._computed.clear()
        if blocks:
            self.client.stored.blocks += len(blocks)
            self.client.stored.nbytes += len(blocks) * self.client.slot_bytes
            keys = [hashes.pack([block]) for block in blocks]
            self.client.written(keys, slots, hashes.pack(blocks), hashes.pack(parents))


def _leading(keys: Sequence[bytes], found: dict[bytes, int]) -> int:
    """How many keys, from the first on, were found."""
    return next((place for place, key in enumerate(keys) if key not in found), len(keys))
