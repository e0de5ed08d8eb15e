"""Tells a request that kills the processes which get it from one that was only there. Pure.

A request that kills goes on at the next process where the last one died of it, and kills that one
too, before it has given another token. An innocent request gives tokens in between.
"""

from __future__ import annotations

from dataclasses import dataclass

from dynamo_cli.errors import PoisonRequest
from dynamo_cli.units import MS_NS, SECOND_NS

FATAL_DEATHS = 2
"""A request is not given to a third process after this many deaths without progress in between."""

MEMORY_NS = 600 * SECOND_NS
"""After this long without another death a request is no longer suspected."""

SAME_DEATH_NS = SECOND_NS
"""A process does not die twice within this time, so it is the same death that is told twice."""

AT_ONCE_NS = 20 * MS_NS
"""A request cannot kill one process, move and kill another one in so short a time."""


def refusal(request_id: str, deaths: int) -> PoisonRequest:
    """The error of a request that no further process should get."""
    return PoisonRequest(
        f"request {request_id} is refused: {deaths} times, a worker died while it ran the same "
        f"request. Wait {MEMORY_NS // (60 * SECOND_NS)} minutes before you send it again; the log "
        "says why the workers died."
    )


@dataclass(slots=True)
class Deaths:
    """The deaths of processes that had one request.

    Attributes:
        count: deaths between which the request has given no token.
    """

    count: int = 0
    _process: str = ""
    _last_ns: int = 0
    _tokens: int = 0
    _begun: bool = False

    @property
    def fatal(self) -> bool:
        """Whether no other process should get the request."""
        return self.count >= FATAL_DEATHS

    def add(self, process: str, tokens: int, now_ns: int) -> None:
        """Note that a process died that had the request.

        Args:
            process: its name.
            tokens: tokens of the answer that were there by then.
            now_ns: when that was known, on the monotonic clock.
        """
        since_ns = now_ns - self._last_ns
        same = self.count and since_ns < (SAME_DEATH_NS if process == self._process else AT_ONCE_NS)
        if same:
            self._tokens = max(self._tokens, tokens)
            return
        self.count = 1 if self._begun or tokens > self._tokens else self.count + 1
        self._process, self._last_ns = process, now_ns
        self._tokens, self._begun = tokens, False

    def begun(self) -> None:
        """An engine gives tokens for it, although nobody counts them here."""
        self._begun = True
