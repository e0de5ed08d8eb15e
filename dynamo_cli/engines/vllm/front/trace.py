"""What one API request did in the engines, gathered while vLLM's serving classes work on it.

vLLM hands no context of ours from its serving classes to the engine client. A context variable
does: both run in the request's own task.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec

from dynamo_cli.errors import DynamoError
from dynamo_cli.messages.prefill import PrefilledElsewhere
from dynamo_cli.messages.request import Prompt, Timeline, Usage

AT_ONCE = 16
"""Prompts of one request that are made ready in one turn of the event loop."""


class ChosenWorker(NamedTuple):
    """The worker of an engine request.

    Attributes:
        worker: its index.
        overlap_blocks: leading blocks of the prompt that it holds, as far as the router knows.
        prefill_worker: index of the prefill worker that holds most of them; None: none holds any.
        engine_order: when engines take it of those that wait there; smaller comes first.
    """

    worker: int
    overlap_blocks: int
    prefill_worker: int | None
    engine_order: int


@dataclass(slots=True)
class PromptTrace:
    """What is recorded of a prompt; `prompt` as it was sent."""

    prompt: Prompt
    output_tokens: int = 0


class RequestTrace:
    """Counters of one API request, which may be several engine requests (n > 1, prompt lists).

    Attributes:
        request_id: the frontend's key, which no other request has.
        api_id: the client's name of it, for people to read.
        path: which endpoint was asked, for the shape of its errors; else empty.
        worker: that must serve it; None leaves it to the router.
        in_place: template and tokenizer run where the request is, not in another thread.
        body_bytes: what the client sent, which says how long it may take to prepare.
        pace: so many of its prompts may be on their way to engines at once.
        placed: engine request family (siblings of n > 1) -> where it is.
        overlap_blocks: of the family placed last, as the router predicted.
        release: releases the lock of `OneAtATime`, while the request has it; else None.
        error: the kind of failure, empty when there is none.
        failure: what ended it, when that was not the model.
        finish_reason: why the engine request that ended last did; empty before.
        elsewhere: set when its prompt was prefilled by a prefill worker.
        response: of the Responses API as its stream began; None before, and elsewhere.
        events: of that stream that went out.
        broken: the error that ended a stream which vLLM translates into another.
        prompts: engine request family -> what is recorded of it.
        received_ns, ...: see `Timeline`.
    """

    __slots__ = (
        "_untold",
        "api_id",
        "body_bytes",
        "broken",
        "cached_tokens",
        "elsewhere",
        "ended_ns",
        "error",
        "events",
        "failure",
        "finish_reason",
        "first_token_ns",
        "in_place",
        "output_tokens",
        "overlap_blocks",
        "pace",
        "path",
        "placed",
        "prepared_ns",
        "prompt_tokens",
        "prompts",
        "queued_ns",
        "received_ns",
        "release",
        "request_id",
        "response",
        "routed_ns",
        "scheduled_ns",
        "sent_ns",
        "worker",
    )

    def __init__(
        self,
        request_id: str,
        api_id: str = "",
        *,
        path: str = "",
        worker: int | None = None,
        in_place: bool = False,
        body_bytes: int = 0,
    ) -> None:
        self.request_id = request_id
        self.api_id = api_id or request_id
        self.path = path
        self.worker = worker
        self.in_place = in_place
        self.body_bytes = body_bytes
        self.pace = asyncio.Semaphore(AT_ONCE)
        self.placed: dict[str, ChosenWorker] = {}
        self.overlap_blocks = 0
        self.prompt_tokens = 0
        self.cached_tokens = 0
        self.output_tokens = 0
        self.error = ""
        self.failure: DynamoError | None = None
        self.release: Callable[[], None] | None = None
        self.finish_reason = ""
        self.elsewhere: PrefilledElsewhere | None = None
        self.response: dict[str, Any] | None = None
        self.events = 0
        self.broken: Exception | None = None
        self.prompts: dict[str, PromptTrace] = {}
        self.received_ns = time.monotonic_ns()
        self.prepared_ns = self.routed_ns = self.sent_ns = 0
        self.queued_ns = self.scheduled_ns = self.first_token_ns = self.ended_ns = 0
        self._untold = 0

    @property
    def served_by(self) -> int | None:
        """The worker that has it, the first of several; None: none has."""
        return next((answer.worker for answer in self.placed.values()), None)

    def prepared(self) -> None:
        """The request is on its way to an engine, or over: let the next one be prepared."""
        if self.release is not None:
            release, self.release = self.release, None
            release()

    def sent(self, prepared_ns: int, routed_ns: int) -> None:
        """An engine request goes to its worker now."""
        if not self.sent_ns:
            self.prepared_ns, self.routed_ns = prepared_ns, routed_ns
            self.sent_ns = time.monotonic_ns()

    def first_token(self, queued_ns: int, scheduled_ns: int) -> None:
        """An engine request has its first token."""
        if not self.first_token_ns:
            self.queued_ns, self.scheduled_ns = queued_ns, scheduled_ns
            self.first_token_ns = time.monotonic_ns()

    def ended(self, finish_reason: str) -> None:
        """An engine request has its last token."""
        self.finish_reason = finish_reason
        self.ended_ns = time.monotonic_ns()

    def add_output(self, tokens: int) -> None:
        self.output_tokens += tokens
        self._untold += tokens

    def take_new_tokens(self) -> int:
        """Tokens that came since the last call."""
        new, self._untold = self._untold, 0
        return new

    def usage(self) -> Usage:
        return Usage(self.prompt_tokens, self.cached_tokens, self.output_tokens)

    def recorded(self) -> tuple[Prompt, ...]:
        """Its prompts as they ended."""
        return tuple(
            msgspec.structs.replace(one.prompt, output_tokens=one.output_tokens)
            for one in self.prompts.values()
        )

    def timeline(self) -> Timeline:
        elsewhere = self.elsewhere
        return Timeline(
            received_ns=self.received_ns,
            prepared_ns=self.prepared_ns,
            routed_ns=self.routed_ns,
            sent_ns=self.sent_ns,
            pushed_ns=elsewhere.pushed_ns if elsewhere else 0,
            leased_ns=elsewhere.leased_ns if elsewhere else 0,
            prefilled_ns=elsewhere.prefilled_ns if elsewhere else 0,
            queued_ns=self.queued_ns,
            scheduled_ns=self.scheduled_ns,
            first_token_ns=self.first_token_ns,
            ended_ns=self.ended_ns,
            prefill_worker=elsewhere.prefill_worker if elsewhere else None,
        )


current_trace: ContextVar[RequestTrace] = ContextVar("current_trace")
