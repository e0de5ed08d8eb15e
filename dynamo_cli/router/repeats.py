"""Measures how much of each prompt an earlier prompt began with: what an endless cache would find.

Pure.
"""

from __future__ import annotations

from collections.abc import Sequence

MAX_BLOCKS = 200_000
"""Size of each of the two generations; a block takes about 100 bytes."""


class Repeats:
    """Remembers blocks of prompts in two generations: when the young one is full, it becomes the
    old one, and the old one is forgotten.

    Args:
        max_blocks: number of blocks of a generation.

    Attributes:
        asked_tokens: tokens of all prompts.
        repeated_tokens: tokens in leading blocks that an earlier prompt had too.
        forgotten_blocks: number of blocks that were dropped for lack of room.
    """

    def __init__(self, max_blocks: int = MAX_BLOCKS) -> None:
        self._max_blocks = max_blocks
        self._young: set[int] = set()
        self._old: set[int] = set()
        self.asked_tokens = self.repeated_tokens = self.forgotten_blocks = 0

    def ask(self, prompt_tokens: int, blocks: Sequence[int], block_size: int) -> int:
        """Add a prompt and return how many of its first tokens an earlier prompt had too."""
        self.asked_tokens += prompt_tokens
        # An engine always computes the last token.
        usable = (prompt_tokens - 1) // block_size if block_size else 0
        repeated_tokens = min(self._known(blocks), usable) * block_size
        self.repeated_tokens += repeated_tokens
        self._young.update(blocks)
        if len(self._young) >= self._max_blocks:
            self.forgotten_blocks += len(self._old - self._young)
            self._old, self._young = self._young, set()
        return repeated_tokens

    def _known(self, blocks: Sequence[int]) -> int:
        """Number of leading blocks that are remembered, found by bisection."""
        low, high = 0, len(blocks)
        while low < high:
            middle = (low + high + 1) // 2
            block = blocks[middle - 1]
            if block in self._young or block in self._old:
                low = middle
            else:
                high = middle - 1
        return low
