"""Prefixes that a worker will hold once it has done what it was given. Pure.

A request that follows a sibling to the same worker waits behind it, and finds its prefix computed;
no event says so yet. Of each prompt on its way only some depths are kept, eight to a doubling, so
that a promise costs little however long the prompt is; what is promised is found to within an
eighth.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain

from dynamo_cli.kv.index import PrefixIndex

PER_DOUBLING = 8
DEPTHS = (
    *range(1, PER_DOUBLING),
    *chain.from_iterable(
        range(PER_DOUBLING << octave, 2 * PER_DOUBLING << octave, 1 << octave)
        for octave in range(20)
    ),
)
"""Blocks: 1 to 8 all, to 16 all, to 32 every second, to 64 every fourth ..."""


def marks(hashes: Sequence[int]) -> list[int]:
    """Of a prompt's sequence hashes those at `DEPTHS`."""
    kept, depth, step = list(hashes[: PER_DOUBLING - 1]), PER_DOUBLING, 1
    while depth <= len(hashes):
        kept += hashes[depth - 1 : 2 * depth - 1 : step]
        depth, step = 2 * depth, 2 * step
    return kept


@dataclass(slots=True)
class Promised:
    """The prompts on their way to all workers, by their marks."""

    _index: PrefixIndex = field(default_factory=PrefixIndex)
    _counts: defaultdict[int, dict[int, int]] = field(default_factory=lambda: defaultdict(dict))

    def __len__(self) -> int:
        return sum(map(len, self._counts.values()))

    def add(self, worker: int, prompt: Sequence[int]) -> None:
        """A prompt with these marks is on its way."""
        counts, new = self._counts[worker], []
        for mark in prompt:
            if (count := counts.get(mark, 0)) == 0:
                new.append(mark)
            counts[mark] = count + 1
        self._index.store(worker, new)

    def remove(self, worker: int, prompt: Sequence[int]) -> None:
        """It has been computed, or never will be."""
        counts, last = self._counts[worker], []
        for mark in prompt:
            if (count := counts[mark]) == 1:
                last.append(mark)
                del counts[mark]
            else:
                counts[mark] = count - 1
        self._index.remove(worker, last)

    def leading(self, prompt: Sequence[int]) -> dict[int, int]:
        """How many leading blocks of a prompt with these marks each worker will have computed."""
        return {worker: DEPTHS[place - 1] for worker, place in self._index.leading(prompt).items()}
