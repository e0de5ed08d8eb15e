"""Tells which of many like events begins an episode, and so deserves a line in the log. Pure."""

from __future__ import annotations

from collections.abc import Hashable

QUIET_S = 30.0
"""An episode is over when there was no event for so long, seconds."""


class Onsets:
    """Finds the beginnings of episodes of events, by what these are about."""

    def __init__(self) -> None:
        self._last_s: dict[Hashable, float] = {}

    def begins(self, about: Hashable, now_s: float) -> bool:
        """Note an event; returns whether an episode begins with it."""
        last_s = self._last_s.get(about)
        self._last_s[about] = now_s
        return last_s is None or now_s - last_s > QUIET_S
