"""Keeps the prefixes that workers will have computed, or hold for running requests. Pure.

If two requests with the same prefix go to the same worker, the second waits for the first and then
finds the prefix in the cache, although no KV event has come yet. And the blocks that a running
request uses are not evicted, however short of memory its engine is. Of each prompt only the blocks
at some depths are kept, eight for each doubling of the depth, so that long prompts cost little. So
a depth found here is too small by an eighth at most.
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
"""Depths that are kept, in blocks: all up to 16, every 2nd up to 32, every 4th up to 64 ..."""


def marks(hashes: Sequence[int]) -> list[int]:
    """Select those of a prompt's sequence hashes that lie at `DEPTHS`."""
    kept, depth, step = list(hashes[: PER_DOUBLING - 1]), PER_DOUBLING, 1
    while depth <= len(hashes):
        kept += hashes[depth - 1 : 2 * depth - 1 : step]
        depth, step = 2 * depth, 2 * step
    return kept


@dataclass(slots=True)
class Promised:
    """The prompts of requests on each worker, each known by its marks (see `marks`)."""

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
        """For each worker, how many leading blocks this prompt has in common with its prompts.

        Args:
            prompt: marks of the prompt.
            among: counts only for these workers, as bits.
        """
        leading = self._index.leading(prompt, among)
        return {worker: DEPTHS[place - 1] for worker, place in leading.items()}

    def by_depth(self, prompt: Sequence[int]) -> Iterator[tuple[int, int]]:
        """Like `PrefixIndex.by_depth`, for the marks of a prompt: it counts marks, not blocks."""
        return self._index.by_depth(prompt)
