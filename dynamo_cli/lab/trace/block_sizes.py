"""Which block sizes fit a trace: those for which each prompt has as many blocks as hashes. Pure.

Some traces have a hash for the last, partial block of a prompt, and others do not. With `blocks`
hashes for `tokens` tokens, a block size fits if their quotient, rounded down or up, is `blocks`:

    tokens / (blocks + 1)  <  size  <  tokens / (blocks - 1)

So one long prompt narrows the sizes down more than many short ones, and a prompt without hashes
does not narrow them down at all.
"""

from __future__ import annotations

NO_BOUND = 1 << 62


class BlockSizeRange:
    """The block sizes that fit all lines so far.

    Attributes:
        lowest, highest: smallest and largest size, in tokens.
        broken_at: place of the first line that fits none of the sizes that the lines before it
            allow; empty if there is none.
    """

    def __init__(self) -> None:
        self.lowest, self.highest = 1, NO_BOUND
        self.broken_at = ""

    def add(self, line: str, tokens: int, blocks: int) -> None:
        """Add a line.

        Args:
            line: its place.
            tokens: length of its prompt.
            blocks: number of its hashes.
        """
        if not blocks or self.broken_at:
            return
        low, high = bounds(tokens, blocks)
        if max(low, self.lowest) > min(high, self.highest):
            self.broken_at = line
            return
        self.lowest, self.highest = max(low, self.lowest), min(high, self.highest)

    def allows(self, size: int) -> bool:
        """Tell whether a size fits all lines."""
        return not self.broken_at and self.lowest <= size <= self.highest

    @property
    def only(self) -> int | None:
        """The size that fits, if there is only one; otherwise None."""
        return self.lowest if self.lowest == self.highest and not self.broken_at else None

    def __str__(self) -> str:
        return said(self.lowest, self.highest)


def bounds(tokens: int, blocks: int) -> tuple[int, int]:
    """Return the smallest and the largest size that fit one line."""
    low = tokens // (blocks + 1) + 1
    return low, -(-tokens // (blocks - 1)) - 1 if blocks > 1 else NO_BOUND


def said(low: int, high: int) -> str:
    """Describe a range of sizes in words."""
    if low == high:
        return f"blocks of {low} tokens"
    if high == NO_BOUND:
        return f"blocks of {low} tokens or more"
    return f"blocks of {low} to {high} tokens"


def far_off(tokens: int, blocks: int, size: int) -> bool:
    """Tell whether a stated block size cannot be right for this line.

    Lengths and hashes of real traces come from different programs, which may differ by a token.
    """
    return bool(blocks) and not tokens // size - 1 <= blocks <= -(-tokens // size) + 1
