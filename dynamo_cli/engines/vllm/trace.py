"""What one API request did in the engines, gathered while vLLM's serving classes work on it.

vLLM hands no context of ours from its serving classes to the engine client. A context variable
does: both run in the request's own task.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar

from dynamo_cli.messages import Usage


class RequestTrace:
    """Counters of one API request, which may be several engine requests (n > 1, prompt lists).

    Attributes:
        request_id: the client's.
        worker: that must serve it; -1 leaves it to the router.
        short: its body is small enough to be prepared in the loop itself.
        placed: engine request family (siblings of n > 1) -> worker.
        overlap_blocks: of the family placed last, as the router predicted.
        end_turn: ends its turn to be prepared (see `Turns`), when it has one.
        error: the kind of failure, empty when there is none.
    """

    __slots__ = (
        "_untold",
        "cached_tokens",
        "end_turn",
        "error",
        "output_tokens",
        "overlap_blocks",
        "placed",
        "prompt_tokens",
        "request_id",
        "short",
        "worker",
    )

    def __init__(self, request_id: str, worker: int = -1, *, short: bool = False) -> None:
        self.request_id = request_id
        self.worker = worker
        self.short = short
        self.placed: dict[str, int] = {}
        self.overlap_blocks = 0
        self.prompt_tokens = 0
        self.cached_tokens = 0
        self.output_tokens = 0
        self.error = ""
        self.end_turn: Callable[[], None] | None = None
        self._untold = 0

    def prepared(self) -> None:
        """It is on its way to an engine, or over: the next one's turn."""
        if self.end_turn is not None:
            end, self.end_turn = self.end_turn, None
            end()

    def add_output(self, tokens: int) -> None:
        self.output_tokens += tokens
        self._untold += tokens

    def take_new_tokens(self) -> int:
        """Tokens that came since the last call."""
        new, self._untold = self._untold, 0
        return new

    def usage(self) -> Usage:
        return Usage(self.prompt_tokens, self.cached_tokens, self.output_tokens)


current_trace: ContextVar[RequestTrace] = ContextVar("current_trace")
