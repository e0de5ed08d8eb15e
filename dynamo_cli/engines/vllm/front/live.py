"""An engine request from its placement to its end, with everything that moving it needs."""

from __future__ import annotations

import asyncio
import itertools
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import msgspec
from vllm.v1.engine import EngineCoreEvent, EngineCoreEventType, EngineCoreRequest

from dynamo_cli.engines.vllm.front.trace import PromptTrace, RequestTrace
from dynamo_cli.kv import hashes
from dynamo_cli.messages.request import MoveReason
from dynamo_cli.units import SECOND_NS


@dataclass(slots=True, eq=False)
class LiveRequest:
    """An engine request that AsyncLLM waits for.

    Attributes:
        name: the id by which AsyncLLM knows it.
        request: vLLM's request, without the prompt.
        tokens: the prompt, packed int32; empty when it is in the request.
        trace: the trace of the API request that it belongs to.
        prompt: what is recorded of its prompt; None if requests are not recorded.
        family: name that the n requests for one prompt share.
        priority: the client's priority; `request.priority` is its order in the engine instead.
        worker: index of the worker that it is on, or that it left last.
        output: tokens that it has produced, on all its workers.
        moves: how often it left a worker.
        unstarted: whether its present worker has given no output for it yet.
        refused_by: workers that it must not go to again, although their engines are up: they
            refused it, or took too long for its first token.
        over: whether AsyncLLM does not wait for it any more.
        overdue: whether its first token took too long once already.
        moving: the task that finds another worker, and the requests for which it does; None if it
            never moved.
        deadline: the running timer of `FirstTokenDeadlines`; None if there is none.
    """

    name: str
    request: EngineCoreRequest
    tokens: bytes
    trace: RequestTrace
    prompt: PromptTrace | None
    family: str
    priority: int
    worker: int = 0
    output: array[int] = field(default_factory=lambda: array("i"))
    moves: int = 0
    unstarted: bool = True
    refused_by: set[int] = field(default_factory=set)
    over: bool = False
    overdue: bool = False
    moving: tuple[asyncio.Task[None], Sequence[LiveRequest]] | None = None
    deadline: asyncio.TimerHandle | None = None
    _move: int = 0

    @property
    def wire_id(self) -> str:
        """The id by which workers and the router know it.

        It is another one after each move, so that late outputs of the former worker match nothing.
        """
        return f"{self.name}~{self.moves}" if self.moves else self.name

    @property
    def computed_tokens(self) -> int:
        """Number of tokens that an engine must have computed before it can give the next one."""
        return len(self.tokens) // hashes.TOKEN_BYTES + len(self.output)

    @property
    def lost_by(self) -> set[int]:
        """The workers that died, stalled or were lost while they had it: they come back."""
        ends = (MoveReason.DIED, MoveReason.STALLED, MoveReason.NODE_LOST)
        return {move.source for move in self.trace.moves if move.reason in ends}

    def left(self, move: int) -> None:
        """Note that it left its worker; `move` is the position of that move in the trace."""
        self.moves += 1
        self.unstarted = True
        self._move = move

    def resumed(self, now_ns: int) -> None:
        """Note the first output after a move."""
        moves = self.trace.moves
        if not moves[self._move].resumed_ns:
            moves[self._move] = msgspec.structs.replace(moves[self._move], resumed_ns=now_ns)


def families(requests: Iterable[LiveRequest]) -> list[list[LiveRequest]]:
    """Group the requests into families: those for one prompt of one API request."""

    def key(live: LiveRequest) -> tuple[str, str]:
        return live.trace.request_id, live.family

    ordered = sorted(requests, key=key)
    return [list(group) for _, group in itertools.groupby(ordered, key)]


def family_of(request: EngineCoreRequest) -> str:
    """Return a name that the n requests for one prompt share, as AsyncLLM made them."""
    return str(request.external_req_id or request.request_id)


def take_tokens(request: EngineCoreRequest) -> bytes:
    """Take the token ids out of the request, since raw bytes are far cheaper to send.

    If the prompt has no token ids, or embeddings too, the request stays as it is and the result is
    empty.
    """
    if request.prompt_token_ids is None or request.prompt_embeds is not None:
        return b""
    tokens = hashes.pack_tokens(request.prompt_token_ids)
    request.prompt_token_ids = None
    return tokens


def engine_times(events: list[EngineCoreEvent] | None) -> tuple[int, int]:
    """Return when the engine queued and first scheduled a request, ns; 0 if there is no event."""
    times: dict[EngineCoreEventType, int] = {}
    for event in events or ():
        times.setdefault(event.type, int(event.timestamp * SECOND_NS))
    return (
        times.get(EngineCoreEventType.QUEUED, 0),
        times.get(EngineCoreEventType.SCHEDULED, 0),
    )
