"""The workers and the router, as vLLM's engine client sees them."""

from __future__ import annotations

from collections.abc import Set
from typing import NamedTuple, Protocol

from dynamo_cli.messages.flows import ToWorker
from dynamo_cli.messages.routing import RouteQuery


class ChosenWorker(NamedTuple):
    """The worker that was chosen for an engine request.

    Attributes:
        worker: its index.
        overlap_blocks: leading blocks of the prompt that it has cached or can load from the host
            cache, as far as the router knows.
        prefill_worker: index of the prefill worker that holds most blocks of the prompt; None if
            none holds any.
        engine_order: the engine takes waiting requests in this order, smallest first.
    """

    worker: int
    overlap_blocks: int
    prefill_worker: int | None
    engine_order: int


class Workers(Protocol):
    """The workers and the router as the client sees them; the processor implements it."""

    async def place(self, query: RouteQuery) -> ChosenWorker:
        """Return the worker for a request. Raises `NotReady` when no worker can take it."""

    async def another_ready(self, timeout_s: float) -> bool:
        """Wait until an engine comes up, for `timeout_s` at most; return whether one did."""

    def follow(self, request_id: str, worker: int, prompt_tokens: int) -> None:
        """Note that a request goes to a worker without asking the router."""

    def send(self, worker: int, message: ToWorker) -> bool:
        """Send to a worker; False if it is not linked or its link refused the message."""

    def ready_workers(self) -> Set[int]:
        """Return the workers that take requests."""

    def first_token(self, request_id: str, cached_tokens: int) -> None:
        """Note that the prefill of a request is over; `cached_tokens` of it were cached."""

    def ended(self, request_id: str) -> None:
        """Note that a request has left its worker: it has ended, or it moves."""
