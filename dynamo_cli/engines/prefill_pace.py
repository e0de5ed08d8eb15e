"""How fast an engine computes prompts, from the steps that compute many tokens. Pure."""

from __future__ import annotations

from dynamo_cli.units import US_NS

LEAST_TOKENS = 128
"""A step with fewer prompt tokens takes as long as one without a prompt, and says nothing."""

FORGET = 0.9
"""Factor by which each such step reduces the weight of all older ones."""


class PrefillPace:
    """Time per prompt token of an engine's recent steps."""

    def __init__(self) -> None:
        self._scheduled = self._spent_ns = 0
        self._tokens = self._ns = 0.0

    def scheduled(self, tokens: int) -> None:
        """So many prompt tokens more are being computed."""
        self._scheduled += tokens

    def stepped(self, ns: int, *, ended: bool) -> None:
        """A step of the engine's loop took this time.

        Args:
            ended: whether there were any outputs. If not, what was scheduled may still run.
        """
        if self._scheduled:  # else it only waited, or computed answers
            self._spent_ns += ns
        if not ended:
            return
        if self._scheduled >= LEAST_TOKENS:
            self._tokens = FORGET * self._tokens + self._scheduled
            self._ns = FORGET * self._ns + self._spent_ns
        self._scheduled = self._spent_ns = 0

    def us(self, tokens: int) -> int:
        """Time to compute so many tokens, microseconds; 0 if it is not known."""
        return round(tokens * self._ns / self._tokens / US_NS) if self._tokens else 0
