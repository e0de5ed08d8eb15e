"""The KV blocks of a simulated engine, managed as vLLM manages them. Pure.

A block is free, or held by requests. A full block has the sequence hash of its prefix, and requests
can find it by this hash. A free block can be found too: it stays in the prefix cache until it is
allocated again.

    free queue:  [ without a hash | least recently used ......... most recently used ]
    next to be allocated  ^

If two requests compute the same block at the same time, there are two copies of it, and the older
one is found. The rules are those of vLLM's ``BlockPool`` (v1/core/block_pool.py); a test compares
the two.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Sequence

from dynamo_cli.kv.holdings import Change

STORED, REMOVED = "stored", "removed"
Observer = Callable[[str, int], None]
"""Is called with each event: `STORED` or `REMOVED`, and the sequence hash of the block."""


class BlockPool:
    """The blocks of one engine, and the prefix cache in them.

    Args:
        count: number of blocks. One of them is never used, as in vLLM.

    Attributes:
        usable: number of blocks that requests can hold.
        observer: is called with every event, also those about copies.
        unknown: always empty; it is here because `kv.holdings.Held` has it.
    """

    def __init__(self, count: int, observer: Observer | None = None) -> None:
        self.usable = count - 1
        self.observer = observer
        self.unknown: Counter[str] = Counter()
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(1, count))
        self._holders = [0] * count
        self._names: list[int | None] = [None] * count
        self._found: dict[int, int] = {}  # hash -> its oldest block
        self._copies: dict[int, list[int]] = {}  # hash -> younger blocks with the same content
        self._stored: dict[int, None] = {}
        self._removed: dict[int, None] = {}

    @property
    def free(self) -> int:
        """Number of blocks that no request holds, cached ones included."""
        return len(self._free)

    @property
    def usage(self) -> float:
        """Fraction of the blocks that requests hold."""
        return 1.0 - len(self._free) / self.usable if self.usable else 0.0

    def find(self, names: Sequence[int], limit: int) -> list[int]:
        """The blocks of the longest cached prefix, at most `limit`.

        Args:
            names: sequence hashes of the prompt's blocks.
            limit: most blocks to return.
        """
        found, blocks = self._found, []
        for place in range(min(limit, len(names))):
            block = found.get(names[place])
            if block is None:
                break
            blocks.append(block)
        return blocks

    def idle(self, blocks: Sequence[int]) -> int:
        """How many of these blocks no request holds."""
        holders = self._holders
        return sum(not holders[block] for block in blocks)

    def hold(self, blocks: Sequence[int]) -> None:
        """Let one more request hold these blocks, so that they are not allocated again."""
        for block in blocks:
            if not self._holders[block]:
                del self._free[block]
            self._holders[block] += 1

    def allot(self, count: int) -> list[int]:
        """Allocate free blocks from the front of the queue; there must be enough."""
        blocks = [self._free.popitem(last=False)[0] for _ in range(count)]
        for block in blocks:
            self._forget(block)
            self._holders[block] = 1
        return blocks

    def name(self, blocks: Iterable[int], names: Iterable[int]) -> None:
        """Give sequence hashes to blocks that are full, so that requests can find them."""
        for block, name in zip(blocks, names, strict=True):
            self._names[block] = name
            if name in self._found:
                self._copies.setdefault(name, []).append(block)
            else:
                self._found[name] = block
                self._note(self._removed, self._stored, name)
            if self.observer:
                self.observer(STORED, name)

    def release(self, blocks: Sequence[int]) -> None:
        """Release these blocks of a request, given in the order of its tokens.

        Blocks that become free without a hash will be allocated first. Of those with a hash, the
        last block of the request will be allocated before the first.
        """
        nameless = []
        for block in reversed(blocks):
            self._holders[block] -= 1
            if self._holders[block]:
                continue
            self._free[block] = None
            if self._names[block] is None:
                nameless.append(block)
        for block in reversed(nameless):
            self._free.move_to_end(block, last=False)

    def _forget(self, block: int) -> None:
        name = self._names[block]
        if name is None:
            return
        self._names[block] = None
        copies = self._copies.get(name)
        if copies is None:
            del self._found[name]
            self._note(self._stored, self._removed, name)
        else:
            self._forget_copy(name, block, copies)
        if self.observer:
            self.observer(REMOVED, name)

    def _forget_copy(self, name: int, block: int, copies: list[int]) -> None:
        if self._found[name] == block:
            self._found[name] = copies.pop(0)
        else:
            copies.remove(block)
        if not copies:
            del self._copies[name]

    @staticmethod
    def _note(undone: dict[int, None], done: dict[int, None], name: int) -> None:
        """Note a change; if it undoes another change since the last report, drop both."""
        if name in undone:
            del undone[name]
        else:
            done[name] = None

    def clear(self) -> bool:
        """Forget every prefix. While a request holds a block, do nothing and return False."""
        if self.free < self.usable:
            return False
        for block in range(len(self._names)):
            self._forget(block)
        return True

    # -- what the router is told (see `kv.announcer`) ------------------------------

    def take(self) -> Change:
        """What was stored and removed since the last call.

        The end of a prefix is always removed before its start, so that the set stays closed.
        """
        change = Change(list(self._stored), list(self._removed))
        self._stored, self._removed = {}, {}
        return change

    def all(self) -> list[int]:
        """Hashes of all cached blocks."""
        return list(self._found)
