"""What a cache of KV blocks holds, translated from its events into sequence hashes. Pure.

Engines name blocks by hashes of their own, store a block twice if two requests compute it at the
same time, and refer to parents of earlier events. Here that becomes a set of sequence hashes and
its changes.

The published set is closed: it contains a block only if it contains the block before it. Engines
look up a prompt block by block and stop at the first missing one, so that a block without its
parent can never be found. Besides, the depth of a prefix in a closed set can be found by bisection.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from dynamo_cli.kv import hashes
from dynamo_cli.kv.hashes import ROOT, ExtraKeys

UNKNOWN_PARENT = "unknown_parent"
UNKNOWN_REMOVAL = "unknown_removal"
PARTIAL_BLOCK = "partial_block"
"""Why blocks of an event could not be applied."""


class _Block(msgspec.Struct, gc=False):
    """A block in the cache.

    A cache has tens of thousands of them. Without `gc=False`, each full garbage collection would
    visit all of them and stop the engine's loop meanwhile.

    Attributes:
        parent: sequence hash of the block before; ROOT for a first block.
        copies: number of the engine's blocks with this content.
        children: number of blocks in the cache that directly follow this one.
        published: whether every block before it is in the cache too, so that the router knows it.
    """

    parent: int
    copies: int = 0
    children: int = 0
    published: bool = False


@dataclass(slots=True)
class Change:
    """Blocks that entered and left the published set since the last `take`; no block is in both."""

    stored: list[int]
    removed: list[int]

    def __bool__(self) -> bool:
        return bool(self.stored or self.removed)


class Held(Protocol):
    """What an engine's prefix cache holds, as a closed set of sequence hashes.

    Attributes:
        unknown: number of blocks that could not be translated, by reason.
    """

    unknown: Counter[str]

    def take(self) -> Change:
        """Return the changes since the last call."""
        ...

    def all(self) -> list[int]:
        """Return the whole set."""
        ...


@dataclass(slots=True)
class Holdings:
    """The prefix cache of one engine.

    Args:
        block_size: tokens per block.

    Attributes:
        unknown: number of blocks in events that could not be applied, by reason.
    """

    block_size: int
    unknown: Counter[str] = field(default_factory=Counter)
    _blocks: dict[int, _Block] = field(default_factory=dict)
    _names: dict[Hashable, int] = field(default_factory=dict)
    _stored: dict[int, None] = field(default_factory=dict)
    _removed: dict[int, None] = field(default_factory=dict)
    # parent that is missing or not published -> its blocks
    _orphans: dict[int, list[int]] = field(default_factory=dict)

    def store(
        self,
        names: Sequence[Hashable],
        parent: Hashable | None,
        token_ids: Sequence[int],
        extra_keys: Sequence[ExtraKeys] = (),
    ) -> None:
        """Apply an engine's event BlockStored.

        Args:
            names: the engine's names of consecutive blocks.
            parent: the engine's name of the block before them; None if they begin a prompt.
            token_ids: tokens of all these blocks, one after the other.
            extra_keys: one for each block, see `hashes.chain`.
        """
        if len(token_ids) != len(names) * self.block_size:
            self.unknown[PARTIAL_BLOCK] += len(names)
            return
        before = ROOT if parent is None else self._names.get(parent)
        if before is None:
            self.unknown[UNKNOWN_PARENT] += len(names)
            return
        tokens = hashes.pack_tokens(token_ids)
        sequence = hashes.chain(tokens, self.block_size, extra_keys, before)
        for name, block in zip(names, sequence, strict=True):
            self.add(name, block, before)
            before = block

    def add(self, name: Hashable, block: int, parent: int) -> None:
        """Store one block whose sequence hash is known.

        Args:
            name: the owner's name of the block.
            block: its sequence hash.
            parent: sequence hash of the block before it; ROOT for a first block.
        """
        self._names[name] = block
        self._add(block, parent)

    def name_of(self, engine_name: Hashable) -> tuple[int, int]:
        """The sequence hashes of the block with the engine's name, and of its parent; (0, 0) if it
        is not in the cache."""
        block = self._blocks.get(known := self._names.get(engine_name, 0))
        return (known, block.parent) if block is not None else (0, 0)

    def _add(self, name: int, parent: int) -> None:
        block = self._blocks.get(name)
        if block is None:
            block = self._blocks[name] = _Block(parent)
            block.children = len(self._orphans.get(name, ()))
            above = self._blocks.get(parent)
            if above is not None:
                above.children += 1
            if parent == ROOT or (above is not None and above.published):
                self._publish(name)
            else:
                self._orphans.setdefault(parent, []).append(name)
        block.copies += 1

    def remove(self, names: Sequence[Hashable]) -> None:
        """Apply an engine's event BlockRemoved: one copy of each block is gone."""
        for name in names:
            known = self._names.get(name)
            block = self._blocks.get(known) if known is not None else None
            if known is None or block is None:
                self.unknown[UNKNOWN_REMOVAL] += 1
                continue
            block.copies -= 1
            if block.copies == 0:
                del self._names[name]
                self._drop(known, block)

    def _drop(self, name: int, block: _Block) -> None:
        del self._blocks[name]
        if (above := self._blocks.get(block.parent)) is not None:
            above.children -= 1
        if not block.published:
            self._forget_orphan(name, block.parent)
            return
        self._withdraw(name)
        if block.children:
            self._hide_below(name)

    def _forget_orphan(self, name: int, parent: int) -> None:
        """Note that a block which waits for this parent has left the cache."""
        waiting = self._orphans[parent]
        waiting.remove(name)
        if not waiting:  # the parent may never come
            del self._orphans[parent]

    def clear(self) -> None:
        """Apply an engine's event AllBlocksCleared."""
        for name in self.all():
            self._withdraw(name)
        self._blocks.clear()
        self._names.clear()
        self._orphans.clear()

    def take(self) -> Change:
        """Return the changes since the last call."""
        change = Change(list(self._stored), list(self._removed))
        self._stored, self._removed = {}, {}
        return change

    def all(self) -> list[int]:
        """Return the whole published set."""
        return [name for name, block in self._blocks.items() if block.published]

    def _publish(self, name: int) -> None:
        """Publish a block, and all blocks below it that only lacked this one."""
        ready = [name]
        while ready:
            name = ready.pop()
            self._blocks[name].published = True
            if name in self._removed:
                del self._removed[name]
            else:
                self._stored[name] = None
            ready += self._orphans.pop(name, ())

    def _withdraw(self, name: int) -> None:
        if name in self._stored:
            del self._stored[name]
        else:
            self._removed[name] = None

    def _hide_below(self, gone: int) -> None:
        """Withdraw all blocks below one that was removed from the middle of a chain.

        This looks at every block, but it is rare: engines evict the ends of chains first.
        """
        below: dict[int, list[int]] = {}
        for name, block in self._blocks.items():
            if block.published:
                below.setdefault(block.parent, []).append(name)
        hidden = [gone]
        while hidden:
            parent = hidden.pop()
            if children := below.get(parent):
                self._orphans.setdefault(parent, []).extend(children)
                hidden += children
            for name in children or ():
                self._blocks[name].published = False
                self._withdraw(name)
