"""Tells vLLM's scheduler which blocks the host cache has, and to which slots blocks are stored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from weakref import WeakValueDictionary

from vllm.distributed.kv_transfer.kv_connector.v1.offloading.common import TransferStats
from vllm.v1.kv_offload.base import (
    LookupResult,
    OffloadingManager,
    OffloadKey,
    PrepareStoreOutput,
    ReqContext,
    RequestOffloadingContext,
    ScheduleEndContext,
)
from vllm.v1.kv_offload.cpu.common import CPULoadStoreSpec
from vllm.v1.metrics.cache_hit_source import CacheHitSource

from dynamo_cli.engines.cache_client import CacheClient
from dynamo_cli.units import SECOND_NS

Names = Callable[[Sequence[bytes]], tuple[bytes, bytes]]
"""Gives the sequence hashes of blocks and of their parents, packed; see `BlocksWritten`."""


def _no_names(keys: Sequence[bytes]) -> tuple[bytes, bytes]:
    return b"", b""


class Manager(OffloadingManager):  # type: ignore[misc]
    """What vLLM's scheduler in one engine uses of the host cache.

    Args:
        client: the engine's client of the host cache.
        min_blocks: prompts with fewer blocks are neither looked up nor stored.
        block_bytes: size of one block over all layers and ranks.

    Attributes:
        client, block_bytes: as given.
        names: returns the sequence hashes by which the router knows blocks; the engine sets it.
        saved: if not None, called once for each request that has ended, as soon as no block of its
            prompt is still being stored, with its id and the keys of its prompt.
    """

    def __init__(self, client: CacheClient, min_blocks: int, block_bytes: int) -> None:
        self.client = client
        self.block_bytes = block_bytes
        self.names: Names = _no_names
        self.saved: Callable[[str, list[OffloadKey]], None] | None = None
        self._min_blocks = min_blocks
        self._unstored: set[str] = set()  # requests whose blocks are not stored
        self._storing: dict[OffloadKey, tuple[int, int]] = {}  # block -> its number and its slot
        self._stores = 0
        # Requests whose blocks are being loaded -> whether the request has ended since.
        self._loading: dict[str, bool] = {}
        # Blocks of each request that the host cache had when it was asked, or that it got later.
        self._held: dict[str, set[OffloadKey]] = {}
        self._prompts: dict[str, list[OffloadKey]] = {}  # keys by request, if `saved` is set
        self._copying: Counter[str] = Counter()  # number of running stores of each request
        self._over: dict[str, None] = {}  # ended requests with stores that still run

    def find(self, context: ReqContext, keys: Sequence[OffloadKey]) -> bool:
        """Ask for all blocks of a prompt; call this again until it returns True: then the answer
        has come, or is not needed."""
        if self.saved is not None:
            self._prompts[context.req_id] = list(keys)
        if len(keys) < self._min_blocks:
            self._unstored.add(context.req_id)
            return True
        return self.client.find(context.req_id, keys) is not None

    def forget(self, request_id: str) -> None:
        """Forget what `find` has noted about a request that the scheduler did not get."""
        self._unstored.discard(request_id)
        self._prompts.pop(request_id, None)
        self.client.end(request_id)

    def reset(self, ended: Iterable[str]) -> None:
        """Load and store no older blocks any more, because the engine's cache was reset.

        Args:
            ended: requests that have ended but whose last blocks are not stored yet.
        """
        self._unstored.update(ended)
        self._held.clear()
        self.client.reset(self._loading)

    def leading(self, context: ReqContext, keys: Sequence[OffloadKey]) -> int:
        """How many of these blocks, from the first on, were found for this request."""
        found = self.client.slots_of(context.req_id)
        for count, key in enumerate(keys):
            if key not in found:
                return count
        return len(keys)

    def count(self, stats: TransferStats) -> None:
        """Count the copies of all ranks that have ended."""
        for copied, ended in ((self.client.loaded, stats.load), (self.client.stored, stats.store)):
            copied.nbytes += ended.bytes
            copied.blocks = copied.nbytes // self.block_bytes
            copied.nanoseconds += round(ended.time * SECOND_NS)

    # -- vLLM's interface --------------------------------------------------------------------

    def on_new_request(self, req_context: ReqContext) -> RequestOffloadingContext:
        """Return vLLM's default: blocks are stored as they are computed."""
        return RequestOffloadingContext()

    def lookup(self, key: OffloadKey, req_context: ReqContext) -> LookupResult:
        """Whether the host cache has a block; it was asked for before, see `find`."""
        known = key in self.client.slots_of(req_context.req_id)
        return LookupResult.HIT if known else LookupResult.MISS

    def get_load_source(self, key: OffloadKey, req_context: ReqContext) -> CacheHitSource:
        """All blocks come from the memory of this host."""
        return CacheHitSource.HOST

    def prepare_load(
        self, keys: Collection[OffloadKey], req_context: ReqContext
    ) -> CPULoadStoreSpec:
        """The slots of these blocks; the host cache keeps them there until `complete_load`."""
        slots = self.client.slots_of(req_context.req_id)
        self._loading[req_context.req_id] = False
        return CPULoadStoreSpec([slots[key] for key in keys])

    def complete_load(self, keys: Collection[OffloadKey], req_context: ReqContext) -> None:
        """Release the slots of blocks that are in the engine's cache now."""
        if self._loading.pop(req_context.req_id, False):
            self.client.end(req_context.req_id)
        else:
            self._release(req_context.req_id)

    def _release(self, request_id: str) -> None:
        """Release the blocks that were found for a request, and note that they need no store."""
        if found := self.client.slots_of(request_id):
            self._held.setdefault(request_id, set()).update(map(OffloadKey, found))
        self.client.end(request_id)

    def on_schedule_end(self, context: ScheduleEndContext) -> None:
        """Release the found blocks of requests that begin in this step without loading them."""
        for request_id in context.new_req_ids:
            if request_id not in self._loading:  # else it loads in this step
                self._release(request_id)

    def prepare_store(
        self, keys: Collection[OffloadKey], req_context: ReqContext
    ) -> PrepareStoreOutput:
        """Take slots for the blocks that the host cache does not have, or as many as there are."""
        request_id = req_context.req_id
        wanted: list[OffloadKey] = []
        if request_id not in self._unstored:
            held = self._held.setdefault(request_id, set())
            wanted = [
                key for key in dict.fromkeys(keys) if key not in held and key not in self._storing
            ]
        slots = self.client.take(len(wanted)) if wanted else []
        chosen = wanted[: len(slots)]
        numbered = enumerate(slots, self._stores)
        self._storing.update(zip(chosen, numbered, strict=True))
        self._stores += len(chosen)
        self._copying[request_id] += bool(chosen)
        return PrepareStoreOutput(chosen, CPULoadStoreSpec(slots), [])

    def complete_store(
        self, keys: Collection[OffloadKey], req_context: ReqContext, success: bool = True
    ) -> None:
        """Hand the blocks over to the host cache: they are in its memory, so all may read them."""
        self._copying[req_context.req_id] -= 1
        # vLLM gives a set, but the host cache needs the order, to evict the last blocks first.
        complete = sorted(self._storing.keys() & keys, key=self._storing.__getitem__)
        slots = [self._storing.pop(key)[1] for key in complete]
        if not success:
            self.client.unused(slots)
        else:
            self._written(complete, slots, req_context)
        for request_id in list(self._over):
            self._tell_saved(request_id)

    def _written(
        self, complete: list[OffloadKey], slots: list[int], req_context: ReqContext
    ) -> None:
        if (held := self._held.get(req_context.req_id)) is not None:
            held.update(complete)
        self.client.written([bytes(key) for key in complete], slots, *self.names(complete))

    def on_request_finished(self, req_context: ReqContext) -> None:
        """Release what was found for a request that has ended, after its load if one runs."""
        self._unstored.discard(req_context.req_id)
        self._held.pop(req_context.req_id, None)
        if req_context.req_id in self._loading:
            self._loading[req_context.req_id] = True  # the copies go on
        else:
            self.client.end(req_context.req_id)
        self._over[req_context.req_id] = None
        self._tell_saved(req_context.req_id)

    def _tell_saved(self, request_id: str) -> None:
        """Forget an ended request, and call `saved`, if no block of its prompt is being stored.

        Blocks of its prompt that it found in the engine's cache may be stored by other requests.
        """
        keys = self._prompts.get(request_id, [])
        if self._copying[request_id] > 0 or any(key in self._storing for key in keys):
            return
        del self._over[request_id], self._copying[request_id]
        self._prompts.pop(request_id, None)
        if self.saved is not None:
            self.saved(request_id, keys)

    def has_pending_work(self) -> bool:
        """Return False: only copies need steps, and vLLM itself counts copies."""
        return False


_clients: WeakValueDictionary[str, Manager] = WeakValueDictionary()


def keep(engine_id: str, manager: Manager) -> None:
    """Note the manager of an engine of this process, for `manager_of`."""
    _clients[engine_id] = manager


def manager_of(engine_id: str) -> Manager:
    """The manager that the scheduler of this engine has."""
    return _clients[engine_id]
