"""Limits how many tokens a step may have, so that no step takes long while answers stream.

An answer that streams gets its next token when the whole step is computed. vLLM fills a step with
as many prompt tokens as the engine can take at once, 8,192 or more on a GPU. A device computes a
few thousand tokens just as efficiently. So a step is limited to a few thousand prompt tokens while
any answer streams; otherwise steps are as large as vLLM makes them. This is the "stall-free
batching" of Sarathi-Serve (Agrawal et al., OSDI 2024), with one exception.

The exception: users hardly see one pause of 0.2 s in hundreds of tokens, and a prompt that is
computed in one step has its first token sooner than one that is computed in parts. So each answer
may be delayed by one long step. After that step, steps are short until all answers that it delayed
have ended, or until these answers have got `STEPS_BETWEEN` more tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

STEPS_BETWEEN = 200
"""With this many tokens after each long gap, less than 1 % of the gaps between an answer's tokens
are long, so that the 99th percentile of the gaps comes from short steps."""


class StepBudget:
    """Limits the tokens of each step of one engine, and remembers its last long step.

    Args:
        most: most tokens that the engine can take in a step.
        prompt_tokens: most prompt tokens of a short step.
        each: most tokens that one streaming answer takes in a step: 1, or more with speculative
            decoding.
        turns: number of steps in which an answer gets one token: the pipeline-parallel size.
    """

    def __init__(self, most: int, prompt_tokens: int, each: int = 1, turns: int = 1) -> None:
        self._most, self._prompt_tokens, self._each = most, prompt_tokens, each
        self._between = STEPS_BETWEEN * turns
        self._again = 0
        self._delayed: frozenset[str] = frozenset()

    def tokens(self, step: int, streams: Sequence[str]) -> int:
        """Return the most tokens of a step.

        Args:
            step: number of the step; numbers only grow.
            streams: ids of the requests whose answers stream.
        """
        if not streams or self._may_be_long(step, streams):
            return self._most
        return self._short(streams)

    def spent(self, step: int, streams: Sequence[str], tokens: int) -> None:
        """Note how many tokens the step had."""
        if streams and tokens > self._short(streams):
            self._again, self._delayed = step + self._between, frozenset(streams)

    def _short(self, streams: Sequence[str]) -> int:
        return min(len(streams) * self._each + self._prompt_tokens, self._most)

    def _may_be_long(self, step: int, streams: Sequence[str]) -> bool:
        return step >= self._again or self._delayed.isdisjoint(streams)
