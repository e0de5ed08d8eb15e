"""Gives KV blocks to the requests of a simulated engine: cached, loaded or computed ones. Pure."""

from __future__ import annotations

from enum import Enum, auto

from dynamo_cli.engines.mock.block_pool import BlockPool
from dynamo_cli.engines.mock.request import MockTotals, SimRequest
from dynamo_cli.engines.mock.tier import MockHostCache


class Entered(Enum):
    """What became of a request that was to begin: it can run, it has its blocks and waits until
    some are loaded, it waits for the answer of the host cache, or there is no room."""

    RUNS = auto()
    LOADS = auto()
    ASKS = auto()
    NO_ROOM = auto()


class KvCacheManager:
    """The KV blocks of one engine and their use by requests.

    Args:
        blocks: all blocks.
        block_size: tokens per block.
        totals: where queries and hits are counted.
        caching: whether prefix caching is on.
        tier: the host cache; None if there is none.
    """

    def __init__(
        self,
        blocks: BlockPool,
        block_size: int,
        totals: MockTotals,
        *,
        caching: bool,
        tier: MockHostCache | None,
    ) -> None:
        self.blocks = blocks
        self.tier = tier
        self._size = block_size
        self._totals = totals
        self._caching = caching

    def blocks_of(self, tokens: int) -> int:
        """Number of blocks for this number of tokens."""
        return -(-tokens // self._size)

    def find(self, request: SimRequest) -> list[int]:
        """Cached blocks that a request can use. Its last token is always computed, so the block
        with that token is left out."""
        return self.blocks.find(request.hashes, (request.tokens - 1) // self._size)

    # -- before it runs --------------------------------------------------------------------

    def enter(self, request: SimRequest, now_ps: int) -> Entered:
        """Give a request its cached prefix, if there is room for all its tokens, and begin to load
        the blocks after that prefix which the host cache has."""
        if request.blocks:  # its load has ended
            return Entered.RUNS
        self._name_all(request)
        found = self.find(request)
        missing = self.blocks_of(request.tokens) - len(found)
        if missing + self.blocks.idle(found) > self.blocks.free:
            return Entered.NO_ROOM
        depth = self._depth(request, len(found))
        if depth is None:
            return Entered.ASKS
        self._take(request, found)
        loaded = depth - len(found)
        if self.tier is None or not loaded:
            return Entered.RUNS
        # All blocks are allocated now. Otherwise two loaded prompts might each lack one block, and
        # neither could begin.
        request.blocks += self.blocks.allot(missing)
        self.tier.load(request, loaded, now_ps)
        return Entered.LOADS

    def _depth(self, request: SimRequest, cached: int) -> int | None:
        """Number of leading blocks that need not be computed; None until the host cache answers."""
        if self.tier is None or request.remote_tokens:
            return cached
        return self.tier.find(request, cached, (request.tokens - 1) // self._size)

    def _take(self, request: SimRequest, found: list[int]) -> None:
        self.blocks.hold(found)
        request.blocks = found
        request.computed = len(found) * self._size
        if self.tier is not None:
            self.tier.computed(request, 0, len(found))  # the host cache may not have them any more
        if request.counts:
            request.cached_tokens = request.computed
            self._totals.queries += request.tokens
            self._totals.hits += request.computed

    def arrived(self, now_ps: int) -> list[SimRequest]:
        """Requests whose blocks have been loaded by now."""
        if self.tier is None or not self.tier.loading:
            return []
        there = self.tier.take_loaded(now_ps)
        for request, loaded in there:
            full = request.computed // self._size
            ends = full + loaded
            request.computed = ends * self._size
            self.blocks.name(request.blocks[full:ends], request.hashes[full:ends])
            self._totals.loaded += loaded * self._size
            if request.counts:
                request.cached_tokens = request.computed
                request.loaded_tokens = loaded * self._size
        return [request for request, _ in there]

    # -- while it runs ---------------------------------------------------------------------

    def fill(self, request: SimRequest, tokens: int) -> None:
        """Add this many tokens of a prompt to its blocks; there must be room for them."""
        full = request.computed // self._size
        request.computed += tokens
        request.blocks += self.blocks.allot(self.missing(request, 0))
        self.name(request, full, request.computed // self._size)

    def missing(self, request: SimRequest, tokens: int) -> int:
        """Number of blocks that a request lacks for this many more tokens."""
        return max(self.blocks_of(request.computed + tokens) - len(request.blocks), 0)

    def _name_all(self, request: SimRequest) -> None:
        """Compute the sequence hashes of all full blocks of a request, output included."""
        if not self._caching:
            request.hashes = []
            return
        self._extend(request, request.tokens // self._size)

    def name(self, request: SimRequest, start: int, end: int) -> None:
        """Let others find the blocks start..end-1 of a request, which are full, by their hashes."""
        if not self._caching or start >= end:
            return
        self._extend(request, end)
        self.blocks.name(request.blocks[start:end], request.hashes[start:end])
        if self.tier is not None:
            self.tier.computed(request, start, end)

    @staticmethod
    def _extend(request: SimRequest, blocks: int) -> None:
        while len(request.hashes) < blocks:
            request.hashes.append(request.name_block(request, len(request.hashes)))

    def clear(self) -> bool:
        """Forget every prefix; False if requests hold blocks."""
        done = self.blocks.clear()
        if done and self.tier is not None:
            self.tier.reset()
        return done

    # -- when it leaves --------------------------------------------------------------------

    def release(self, request: SimRequest) -> None:
        """Take back all blocks of a request."""
        self.blocks.release(request.blocks)
        request.blocks = []

    def forget(self, request: SimRequest) -> bool:
        """Take back the blocks of a request that does not run; returns whether it was loading."""
        loads = self.tier is not None and self.tier.forget(request.request_id)
        self.release(request)
        return loads
