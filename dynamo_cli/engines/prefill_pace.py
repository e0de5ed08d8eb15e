"""How fast an engine computes prompts, from the steps that compute many tokens. Pure."""

from __future__ import annotations

from dynamo_cli.units import US_NS

LEAST_TOKENS = 128
"""Steps with fewer prompt tokens are not counted: they take about as long as steps without any."""

FORGET = 0.9
"""Factor by which each step that is counted reduces the weight of all older ones."""


class PrefillPace:
    """Time per prompt token of an engine's recent steps."""

    def __init__(self) -> None:
        self._scheduled = self._spent_ns = 0
        self._tokens = self._ns = 0.0

    def scheduled(self, tokens: int) -> None:
        """Note that this many more prompt tokens are being computed."""
        self._scheduled += tokens

    def stepped(self, ns: int, *, ended: bool) -> None:
        """Note how long a step of the engine's loop took.

        Args:
            ns: its duration, nanoseconds.
            ended: whether it had outputs. If not, the scheduled tokens may still be computed, and
                the next steps count for them too.
        """
        if self._scheduled:  # else it waited, or computed only tokens of answers
            self._spent_ns += ns
        if not ended:
            return
        if self._scheduled >= LEAST_TOKENS:
            self._tokens = FORGET * self._tokens + self._scheduled
            self._ns = FORGET * self._ns + self._spent_ns
        self._scheduled = self._spent_ns = 0

    def us(self, tokens: int) -> int:
        """Time to compute this many prompt tokens, microseconds; 0 if it is not known."""
        return round(tokens * self._ns / self._tokens / US_NS) if self._tokens else 0
