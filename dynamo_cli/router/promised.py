"""Keeps the prefixes that workers hold for their requests, or will have computed. Pure.

A request that follows another one with the same prefix to the same worker waits behind it and will
find the prefix computed, although no KV event says so yet. And what a running request uses is not
evicted, however short of memory its engine is. Of each prompt only some depths are remembered,
eight for each doubling, so that long prompts cost little; a depth is exact to within an eighth.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain

from dynamo_cli.kv.index import EVERYBODY, PrefixIndex

PER_DOUBLING = 8
DEPTHS = (
    *range(1, PER_DOUBLING),
    *chain.from_iterable(
        range(PER_DOUBLING << octave, 2 * PER_DOUBLING << octave, 1 << octave)
        for octave in range(20)
    ),
)
"""Remembered depths in blocks: all up to 16, every second up to 32, every fourth up to 64 ..."""


def marks(hashes: Sequence[int]) -> list[int]:
    """Select those of a prompt's sequence hashes that lie at `DEPTHS`."""
    kept, depth, step = list(hashes[: PER_DOUBLING - 1]), PER_DOUBLING, 1
    while depth <= len(hashes):
        kept += hashes[depth - 1 : 2 * depth - 1 : step]
        depth, step = 2 * depth, 2 * step
    return kept


@dataclass(slots=True)
class Promised:
    """Prompts of requests that workers have, by their marks."""

    _index: PrefixIndex = field(default_factory=PrefixIndex)
    _counts: defaultdict[int, dict[int, int]] = field(default_factory=lambda: defaultdict(dict))

    def __len__(self) -> int:
        return sum(map(len, self._counts.values()))

    def add(self, worker: int, prompt: Sequence[int]) -> None:
        """Add a prompt with these marks."""
        counts, new = self._counts[worker], []
        for mark in prompt:
            if (count := counts.get(mark, 0)) == 0:
                new.append(mark)
            counts[mark] = count + 1
        self._index.store(worker, new)

    def remove(self, worker: int, prompt: Sequence[int]) -> None:
        """Remove a prompt that was added before."""
        counts, last = self._counts[worker], []
        for mark in prompt:
            if (count := counts[mark]) == 1:
                last.append(mark)
                del counts[mark]
            else:
                counts[mark] = count - 1
        self._index.remove(worker, last)

    def leading(self, prompt: Sequence[int], among: int = EVERYBODY) -> dict[int, int]:
        """For each worker, the number of leading blocks of this prompt that its prompts share.

        Args:
            prompt: marks of the prompt.
            among: only these workers, as bits.
        """
        leading = self._index.leading(prompt, among)
        return {worker: DEPTHS[place - 1] for worker, place in leading.items()}

    def by_depth(self, prompt: Sequence[int]) -> Iterator[tuple[int, int]]:
        """As in `PrefixIndex`, with the marks of a prompt; depths are places in `DEPTHS`."""
        return self._index.by_depth(prompt)
