"""What is known of one API request, gathered while vLLM's serving classes work on it.

vLLM has no way to pass such an object from its serving classes to the engine client. A context
variable carries it, since both run in the asyncio task of the request.
"""

from __future__ import annotations

import asyncio
import time
from array import array
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from dynamo_cli.deaths import RequestDeaths
from dynamo_cli.engines.vllm.front.given import OutputPacker
from dynamo_cli.engines.vllm.front.workers import ChosenWorker
from dynamo_cli.errors import DynamoError
from dynamo_cli.messages.prefill import PrefilledElsewhere
from dynamo_cli.messages.request import Move, Prompt, Timeline, Usage

if TYPE_CHECKING:
    from vllm.v1.engine import EngineCoreRequest

AT_ONCE = 16
"""Prompts of one request that may be sent to engines at the same time."""


@dataclass(slots=True)
class PromptTrace:
    """What a recorded trace keeps of a prompt, with the output tokens so far."""

    prompt: Prompt
    output_tokens: int = 0


class Continued(Protocol):
    """A stream of a lost processor that goes on here; see `resume.StreamReplay`."""

    @property
    def running(self) -> bool:
        """Whether outputs of the lost processor are still to be replayed."""

    @property
    def held(self) -> list[str]:
        """AsyncLLM's ids of the engine requests that are held back until the replay is over."""

    def takes(self, request: EngineCoreRequest) -> bool:
        """Hold back an engine request if outputs are still to be replayed; return whether it is."""

    def output_of(self, request_id: str) -> Sequence[int]:
        """Return the tokens that an engine request had produced before it came here."""

    def outputs(self, name: str, call: int, stream: Any) -> Any:
        """Yield the outputs for one prompt: those of the lost processor, then those of engines."""

    def has(self, text: str) -> bool:
        """Whether the client has this event already; must be called for each event, in order."""

    def ended(self) -> None:
        """Check that the answer is complete; must be called after its last event."""


class RequestTrace:
    """One API request, which may be several engine requests (n > 1, a list of prompts).

    Attributes:
        request_id: the frontend's key, which no other request has.
        api_id: the id that clients and the log know the request by.
        path: path of its endpoint, which determines the shape of errors; empty if it has none.
        worker: index of the worker that must serve it; None leaves the choice to the router.
        in_place: whether template and tokenizer run in the event loop instead of a thread.
        body_bytes: size of its body, which tells how long its preparation may take.
        pace: lets at most `AT_ONCE` of its prompts be sent to engines at the same time.
        placed: the worker of each family, that is of each prompt with its n answers.
        overlap_blocks: cached blocks that the router predicted for the family placed last.
        prompt_tokens: length of its prompts.
        cached_tokens: of these, tokens that engines found in their caches.
        output_tokens: tokens of its answers.
        is_prepared: whether template, tokenizer and checks are done, or it is over.
        release: ends the turn of the request in `turns.Groups` while it has one; else None.
        error: kind of the failure; empty when there is none.
        failure: what ended the request, if neither the model nor vLLM did.
        finish_reason: finish reason of the engine request that ended last; empty before.
        elsewhere: set when a prefill worker computed its prompt.
        response: for a stream of the Responses API, the response object with which it began.
        events: for such a stream, the number of events sent.
        broken: the error that ended a stream of which vLLM makes another stream.
        deaths: by family, deaths of workers that had it, whatever killed them.
        outputs: by family, the output tokens of each of its answers, also of those that have ended.
        moves: the moves of its engine requests between workers, in the order of time.
        prompts: what is recorded of the prompt of each family.
        seed: the ids in the answer are derived from it; empty for random ids.
        ids: number of ids that were derived.
        created_s: the time in the answer, seconds since 1970; 0 for the present time.
        calls: number of prompts whose answers are streamed.
        given: packs what engines have given to a stream since its last chunk.
        replay: replays the stream of a lost processor; None for a new request.
        received_ns, ...: see `Timeline`.
    """

    __slots__ = (
        "_untold",
        "api_id",
        "body_bytes",
        "broken",
        "cached_tokens",
        "calls",
        "created_s",
        "deaths",
        "elsewhere",
        "ended_ns",
        "error",
        "events",
        "failure",
        "finish_reason",
        "first_token_ns",
        "given",
        "ids",
        "in_place",
        "is_prepared",
        "moves",
        "output_tokens",
        "outputs",
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
        "replay",
        "request_id",
        "response",
        "routed_ns",
        "scheduled_ns",
        "seed",
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
        seed: bytes = b"",
        created_s: float = 0.0,
    ) -> None:
        self.request_id = request_id
        self.api_id = api_id or request_id
        self.path = path
        self.worker = worker
        self.in_place = in_place
        self.body_bytes = body_bytes
        self.seed, self.ids, self.created_s = seed, 0, created_s
        self.calls, self.given = 0, OutputPacker()
        self.replay: Continued | None = None
        self.pace = asyncio.Semaphore(AT_ONCE)
        self.placed: dict[str, ChosenWorker] = {}
        self.overlap_blocks = 0
        self.prompt_tokens = 0
        self.cached_tokens = 0
        self.output_tokens = 0
        self.error = ""
        self.failure: DynamoError | None = None
        self.is_prepared = False
        self.release: Callable[[], None] | None = None
        self.finish_reason = ""
        self.elsewhere: PrefilledElsewhere | None = None
        self.response: dict[str, Any] | None = None
        self.events = 0
        self.broken: Exception | None = None
        self.deaths: dict[str, RequestDeaths] = defaultdict(RequestDeaths)
        self.outputs: dict[str, list[array[int]]] = defaultdict(list)
        self.moves: list[Move] = []
        self.prompts: dict[str, PromptTrace] = {}
        self.received_ns = time.monotonic_ns()
        self.prepared_ns = self.routed_ns = self.sent_ns = 0
        self.queued_ns = self.scheduled_ns = self.first_token_ns = self.ended_ns = 0
        self._untold = 0

    @property
    def served_by(self) -> int | None:
        """Index of the worker that has it, the first of several; None if none has it."""
        return next((answer.worker for answer in self.placed.values()), None)

    def prepared(self) -> None:
        """The request is on its way to an engine, or over: let the next ones be prepared."""
        self.is_prepared = True
        if self.release is not None:
            release, self.release = self.release, None
            release()

    def sent(self, prepared_ns: int, routed_ns: int) -> None:
        """Note that an engine request is sent to its worker now."""
        if not self.sent_ns:
            self.prepared_ns, self.routed_ns = prepared_ns, routed_ns
            self.sent_ns = time.monotonic_ns()

    def first_token(self, queued_ns: int, scheduled_ns: int) -> None:
        """Note that an engine request has its first token."""
        if not self.first_token_ns:
            self.queued_ns, self.scheduled_ns = queued_ns, scheduled_ns
            self.first_token_ns = time.monotonic_ns()

    def ended(self, finish_reason: str) -> None:
        """Note that an engine request has its last token."""
        self.finish_reason = finish_reason
        self.ended_ns = time.monotonic_ns()

    def add_output(self, tokens: int) -> None:
        """Count tokens that an engine step gave."""
        self.output_tokens += tokens
        self._untold += tokens

    def take_new_tokens(self) -> int:
        """Return the number of tokens that came since the last call."""
        new, self._untold = self._untold, 0
        return new

    def usage(self) -> Usage:
        """Return the tokens that it used so far."""
        return Usage(self.prompt_tokens, self.cached_tokens, self.output_tokens)

    def recorded(self) -> tuple[Prompt, ...]:
        """Return what is recorded of its prompts, with their output tokens."""
        return tuple(
            msgspec.structs.replace(one.prompt, output_tokens=one.output_tokens)
            for one in self.prompts.values()
        )

    def timeline(self) -> Timeline:
        """Return when the request reached each stage."""
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
"""The trace of the request that this task or thread works on."""
