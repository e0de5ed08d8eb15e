"""Which block sizes fit a trace: as many hashes as a prompt has blocks. Pure.

Some traces name the last, partial block of a prompt and others do not. With `blocks` hashes for
`tokens` tokens a block size fits when the quotient, rounded down or up, is `blocks`:

    tokens / (blocks + 1)  <  size  <  tokens / (blocks - 1)

so that one long prompt says more than many short ones. No hashes at all say nothing.
"""

from __future__ import annotations

NO_BOUND = 1 << 62


class Fit:
    """The sizes that fit all lines so far.

    Attributes:
        lowest, highest: of them, in tokens; none fits when they cross.
        broken_at: the first line that fits no size that the lines before it allow; 0 is none.
    """

    def __init__(self) -> None:
        self.lowest, self.highest = 1, NO_BOUND
        self.broken_at = 0

    def add(self, line: int, tokens: int, blocks: int) -> None:
        """One more line."""
        if not blocks or self.broken_at:
            return
        low, high = bounds(tokens, blocks)
        if max(low, self.lowest) > min(high, self.highest):
            self.broken_at = line
            return
        self.lowest, self.highest = max(low, self.lowest), min(high, self.highest)

    def allows(self, size: int) -> bool:
        """Whether it fits all lines."""
        return not self.broken_at and self.lowest <= size <= self.highest

    @property
    def only(self) -> int | None:
        """The one size that fits, if it is one."""
        return self.lowest if self.lowest == self.highest and not self.broken_at else None

    def __str__(self) -> str:
        return said(self.lowest, self.highest)


def bounds(tokens: int, blocks: int) -> tuple[int, int]:
    """The smallest and the largest size that fit one line."""
    low = tokens // (blocks + 1) + 1
    return low, -(-tokens // (blocks - 1)) - 1 if blocks > 1 else NO_BOUND


def said(low: int, high: int) -> str:
    """Such sizes in words."""
    if low == high:
        return f"blocks of {low} tokens"
    if high == NO_BOUND:
        return f"blocks of {low} tokens or more"
    return f"blocks of {low} to {high} tokens"


def far_off(tokens: int, blocks: int, size: int) -> bool:
    """Whether a size that somebody names cannot be meant for this line.

    Lengths and hashes of real traces are told by different programs, with a token more or less.
    """
    return bool(blocks) and not tokens // size - 1 <= blocks <= -(-tokens // size) + 1
