"""Finds requests that kill the processes which run them. Pure.

Other requests in a process that dies must not be blamed. A request that kills goes on in the next
process at the point where the last one died, and kills that process too, before it has given
another token. An innocent request gives tokens in between.
"""

from __future__ import annotations

from dataclasses import dataclass

from dynamo_cli.errors import PoisonRequest
from dynamo_cli.units import MS_NS, SECOND_NS

FATAL_DEATHS = 2
"""After this many deaths without a new token in between, no other process gets the request."""

MEMORY_NS = 600 * SECOND_NS
"""The frontend forgets a suspected request after this time without another death."""

SAME_DEATH_NS = SECOND_NS
"""Two reports of the death of one process within this time are about the same death."""

AT_ONCE_NS = 20 * MS_NS
"""Two processes that die within this time count as one death: a request cannot kill the first,
move, and kill the second so fast."""


def refusal(request_id: str, deaths: int) -> PoisonRequest:
    """The error of a request that no other process should get."""
    return PoisonRequest(
        f"request {request_id} is refused: {deaths} times in a row, a process died while it had "
        f"this request. Wait {MEMORY_NS // (60 * SECOND_NS)} minutes before you send it again; "
        "the log says why the processes died."
    )


@dataclass(slots=True)
class RequestDeaths:
    """The deaths of processes that had one request.

    Attributes:
        count: number of the last deaths between which the request has given no token.
    """

    count: int = 0
    _process: str = ""
    _last_ns: int = 0
    _tokens: int | None = None
    _delivered: int = 0
    _begun: bool = False

    @property
    def has_begun(self) -> bool:
        """Whether an engine has begun to generate its answer."""
        return self._begun

    @property
    def fatal(self) -> bool:
        """Whether no other process should get the request."""
        return self.count >= FATAL_DEATHS

    def add(self, process: str, tokens: int | None, now_ns: int, delivered: int = 0) -> None:
        """Note that a process died that had the request.

        Args:
            process: its name.
            tokens: output tokens that engines had made by then; None if that is not known.
            now_ns: when the death became known, on the monotonic clock.
            delivered: output tokens that the client had by then: fewer, where a parser holds back
                text.
        """
        since_ns = now_ns - self._last_ns
        same = self.count and since_ns < (SAME_DEATH_NS if process == self._process else AT_ONCE_NS)
        if same:
            self._note(tokens, delivered)
            return
        self.count = 1 if self._went_on(tokens, delivered) else self.count + 1
        self._process, self._last_ns = process, now_ns
        self._begun, self._tokens = False, None
        self._note(tokens, delivered)

    def _went_on(self, tokens: int | None, delivered: int) -> bool:
        """Whether the request has given a token since the last death."""
        if tokens is not None and (self._tokens is not None or not self.count):
            return self._begun or tokens > (self._tokens or 0)
        return self._begun or delivered > self._delivered

    def _note(self, tokens: int | None, delivered: int) -> None:
        self._delivered = max(self._delivered, delivered)
        if tokens is not None:
            self._tokens = max(self._tokens or 0, tokens)

    def begun(self) -> None:
        """Note that the request has given tokens since the last death, without their number."""
        self._begun = True
