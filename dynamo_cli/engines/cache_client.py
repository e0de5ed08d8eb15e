"""An engine's client of the host cache: slots that it may write to, and blocks that were found.
Pure.

Every kind of engine uses it. The process that owns the engine connects it with the link to the host
cache, and passes on the messages that come. See `messages.host_cache` for the words used here.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field

from dynamo_cli.engines.prefill_pace import PrefillPace
from dynamo_cli.kv import hashes
from dynamo_cli.kv import slots as packing
from dynamo_cli.messages.base import Message
from dynamo_cli.messages.host_cache import (
    MISSING,
    BlocksFound,
    BlocksRead,
    BlocksWritten,
    CacheRefused,
    FindBlocks,
    HostCopies,
    OpenCache,
    SlotsLent,
    SlotsReturned,
)
from dynamo_cli.units import SECOND_NS

FIND_TIMEOUT_NS = SECOND_NS // 2
"""After this time without an answer, a request goes on without the host cache."""

NO_SLOT, NO_CACHE, LATE = "no_slot", "no_cache", "late"
"""Why blocks were not stored: no empty slot, no host cache; or not looked up: a late answer."""

STEPS_AHEAD = 3
"""An engine is lent slots for this many full steps: new slots come one or two steps after those of
a step were used."""

FromHostCache = SlotsLent | BlocksFound | CacheRefused


@dataclass(slots=True)
class Copied:
    """Totals of the copies in one direction.

    Attributes:
        blocks, nbytes: what was copied.
        nanoseconds: how long the copies took.
    """

    blocks: int = 0
    nbytes: int = 0
    nanoseconds: int = 0


@dataclass(slots=True)
class _Search:
    """A request's question to the host cache, and the answer.

    Attributes:
        name: name of the question on the link. It is not the request's id, since a request may ask
            again while the answer to its last question is still on the way.
        keys: keys of the blocks that were asked for.
        asked_ns: when the question was sent.
        slots: the slot of each key that was found; None until the answer comes.
        pinned: whether the host cache keeps the blocks in these slots for this request.
        busy: whether the slots count as busy, because the link over which they were pinned is gone.
        number: number of the question, counted from 1 on.
    """

    name: str
    keys: list[bytes]
    asked_ns: int
    slots: dict[bytes, int] | None = None
    pinned: bool = False
    busy: bool = False
    number: int = 0


def _nothing(_: Message) -> bool:
    return False


@dataclass(slots=True)
class CacheClient:
    """What one engine knows of the host cache.

    Args:
        slot_bytes, layout, reserve: see `OpenCache`.
        block_tokens: tokens per block.
        slots: number of slots that the memory of the host cache has.
        clock: gives nanoseconds; only differences count.

    Attributes:
        loaded, stored: totals of the engine's copies, which the engine counts itself.
        pace: how fast the engine computes prompts.
        dropped: number of blocks that were not stored or looked up, by reason.
        refused: why the host cache does not take this engine; empty if it does.
    """

    slot_bytes: int
    layout: str
    block_tokens: int
    slots: int = 0
    reserve: int = 0
    clock: Callable[[], int] = time.monotonic_ns
    loaded: Copied = field(default_factory=Copied)
    stored: Copied = field(default_factory=Copied)
    pace: PrefillPace = field(default_factory=PrefillPace)
    dropped: Counter[str] = field(default_factory=Counter)
    refused: str = ""
    _send: Callable[[Message], bool] = _nothing
    _owe: Callable[[Message], bool] = _nothing
    _open: bool = False
    _prompt: bool = True  # False from a late answer on, until the host cache sends a message
    _lent: deque[int] = field(default_factory=deque)
    # Slots of an earlier link that are still read or written -> how many copies do so.
    _busy: Counter[int] = field(default_factory=Counter)
    _writing: set[int] = field(default_factory=set)
    _searches: dict[str, _Search] = field(default_factory=dict)  # by request
    _asked: dict[str, _Search] = field(default_factory=dict)  # by name, while an answer is awaited
    _questions: int = 0
    _waited_ns: int = 0

    # -- for the process -------------------------------------------------------------------

    def connect(self, send: Callable[[Message], bool], owe: Callable[[Message], bool]) -> None:
        """Set how messages get to the host cache: a full link refuses `send`, but not `owe`."""
        self._send, self._owe = send, owe

    def opened(self) -> None:
        """Open the cache over a new link, perhaps to a host cache that was started again."""
        self._open, self._prompt, self.refused = True, True, ""
        busy = packing.pack(list(self._busy))
        self._owe(OpenCache(self.slot_bytes, self.layout, self.reserve, busy))

    def lost(self) -> None:
        """Forget answers and lent slots, because the link is gone; copies that run go on."""
        self._open = False
        self._asked.clear()
        self._lent.clear()
        self._busy.update(self._writing)
        self._writing.clear()
        for search in self._searches.values():
            if search.slots is None:
                search.slots = {}
            elif search.pinned:
                self._busy.update(search.slots.values())
                search.busy = True
            search.pinned = False

    def apply(self, message: FromHostCache) -> None:
        """Act on a message of the host cache."""
        self._prompt = True
        match message:
            case SlotsLent(slots):
                self._lent.extend(packing.unpack(slots))
            case BlocksFound(name, slots):
                self._found(name, slots)
            case CacheRefused(reason):
                self.refused, self._open = reason, False
                for search in list(self._asked.values()):
                    self._give_up(search)  # it answers nothing

    def _found(self, name: str, packed: bytes) -> None:
        search = self._asked.pop(name, None)
        if search is None:
            self._owe(BlocksRead(name))  # the request has ended or did not wait so long
            return
        found = zip(search.keys, packing.unpack(packed), strict=True)
        search.slots = {key: slot for key, slot in found if slot != MISSING}
        search.pinned = True
        self._waited_ns += self.clock() - search.asked_ns

    @property
    def searches(self) -> int:
        """Number of requests for which blocks were found, or are being searched."""
        return len(self._searches)

    @property
    def room_tokens(self) -> int:
        """Longest prompt that is handed over by the host cache, tokens: half of the slots."""
        return self.slots // 2 * self.block_tokens if self._open else 0

    @property
    def answers(self) -> bool:
        """Whether there is a host cache and its last answer was not late."""
        return self._open and self._prompt

    @property
    def kept(self) -> int:
        """Number of searches that have not ended, and of slots that are being written."""
        return len(self._searches) + len(self._writing) + len(self._busy)

    @property
    def asked(self) -> int:
        """Number of questions since the start."""
        return self._questions

    def waits(self, since: int = 0) -> bool:
        """Whether any request waits for an answer to a question with a number above `since`."""
        return any(search.number > since for search in self._asked.values())

    def copies(self, worker: int, *, prefill: bool) -> HostCopies:
        """The report on all copies of this engine since its start."""
        return HostCopies(
            prefill=prefill,
            worker=worker,
            loaded_blocks=self.loaded.blocks,
            loaded_bytes=self.loaded.nbytes,
            load_s=self.loaded.nanoseconds / SECOND_NS,
            stored_blocks=self.stored.blocks,
            stored_bytes=self.stored.nbytes,
            store_s=self.stored.nanoseconds / SECOND_NS,
            block_tokens=self.block_tokens,
            dropped=dict(self.dropped),
            waited_s=self._waited_ns / SECOND_NS,
            refused=bool(self.refused),
        )

    # -- for the engine: loading ------------------------------------------------------------

    def find(self, request_id: str, keys: Sequence[bytes]) -> dict[bytes, int] | None:
        """Ask which of these blocks the host cache has; call it again until there is an answer.

        Returns:
            the slot of each block that it has; None as long as the answer is awaited.
        """
        search = self._searches.get(request_id)
        if search is None:
            if not self.answers or not keys:
                return {}
            search = self._searches[request_id] = self._ask(request_id, list(keys))
        elif search.slots is None and self.clock() - search.asked_ns > FIND_TIMEOUT_NS:
            self._prompt = False
            self._give_up(search)
        return search.slots

    def _ask(self, request_id: str, keys: list[bytes]) -> _Search:
        self._questions += 1
        name = f"{request_id}#{self._questions}"
        search = _Search(name, keys, self.clock(), number=self._questions)
        self._asked[search.name] = search
        if not self._send(FindBlocks(search.name, keys, self.pace.us(self.block_tokens))):
            self._give_up(search)
        return search

    def _give_up(self, search: _Search) -> None:
        """Go on without an answer."""
        del self._asked[search.name]
        self.dropped[LATE] += len(search.keys)
        search.slots = {}

    def reset(self, reading: Collection[str]) -> None:
        """Forget found blocks and lent slots, because the engine has forgotten its blocks.

        So no block that is older is loaded or stored. The lent slots go back, since the host cache
        would drop blocks that are written to them.

        Args:
            reading: requests whose blocks are being loaded now; these go on.
        """
        for request_id, search in self._searches.items():
            if request_id not in reading:
                self._drop(search)
        if self._lent:
            self._owe(SlotsReturned(packing.pack(list(self._lent))))
            self._lent.clear()

    def _drop(self, search: _Search) -> None:
        """Release the blocks that were found, or that an answer still on its way has found."""
        self._asked.pop(search.name, None)
        if search.pinned:
            self._owe(BlocksRead(search.name))
        elif search.busy and search.slots is not None:
            self._unbusy(search.slots.values())
        search.slots, search.pinned, search.busy = {}, False, False

    def slots_of(self, request_id: str) -> dict[bytes, int]:
        """The blocks that were found for a request; empty if it has not asked."""
        search = self._searches.get(request_id)
        return (search.slots if search is not None else None) or {}

    def end(self, request_id: str) -> None:
        """Release the blocks that were found for this request, and forget its question."""
        search = self._searches.pop(request_id, None)
        if search is not None:
            self._drop(search)

    # -- for the engine: storing ------------------------------------------------------------

    def take(self, count: int) -> list[int]:
        """Take up to `count` empty slots to write to; missing slots count as dropped blocks."""
        if not self._open:
            self.dropped[NO_CACHE] += count
            return []
        taken = [self._lent.popleft() for _ in range(min(count, len(self._lent)))]
        self._writing.update(taken)
        if len(taken) < count:
            self.dropped[NO_SLOT] += count - len(taken)
        return taken

    def written(
        self, keys: list[bytes], slots: list[int], blocks: bytes = b"", parents: bytes = b""
    ) -> None:
        """Hand over blocks that are complete in slots which were taken."""
        mine = [index for index, slot in enumerate(slots) if slot not in self._busy]
        if len(mine) < len(slots):  # the link was lost since they were taken
            self.unused([slot for slot in slots if slot in self._busy])
            blocks, parents = _chosen(blocks, mine), _chosen(parents, mine)
            keys, slots = [keys[index] for index in mine], [slots[index] for index in mine]
        self._writing.difference_update(slots)
        if slots:
            self._owe(BlocksWritten(keys, packing.pack(slots), blocks, parents))

    def unused(self, slots: list[int]) -> None:
        """Give back slots that were taken, and that nothing writes to any more."""
        self._writing.difference_update(slots)
        if rest := [slot for slot in slots if slot not in self._busy]:
            self._owe(SlotsReturned(packing.pack(rest)))
        self._unbusy(slot for slot in slots if slot in self._busy)

    def _unbusy(self, slots: Iterable[int]) -> None:
        slots = list(slots)
        self._busy.subtract(slots)
        if done := [slot for slot in set(slots) if self._busy[slot] <= 0]:
            for slot in done:
                del self._busy[slot]
            self._owe(SlotsReturned(packing.pack(done)))


def _chosen(packed: bytes, indices: list[int]) -> bytes:
    if not packed:
        return b""
    words = hashes.unpack(packed)
    return hashes.pack([words[index] for index in indices])
