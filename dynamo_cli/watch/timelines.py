"""Requests that run and the last that ended, with the times of their stages. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from enum import StrEnum
from itertools import islice

import msgspec

from dynamo_cli.messages.request import Move, Timeline, Usage
from dynamo_cli.messages.routing import RoutingDecision
from dynamo_cli.units import MS_NS, SECOND_NS
from dynamo_cli.watch import moves
from dynamo_cli.watch.moves import MoveStep

KEPT = 10_000
CLIENT_CLOSED = 499
"""Status in logs and counters of a request whose client disconnected before the answer."""
FIRST_ERROR = 400
"""Lowest HTTP status of a failed request."""


class RequestState(StrEnum):
    """How far a request is, as far as the frontend knows."""

    UNPLACED = "unplaced"
    """No worker was chosen yet: the processor prepares it, or it waits at the router."""

    PREFILL = "prefill"
    """A worker has it, but no token has come: it waits there, or its prompt is computed."""

    DECODE = "decode"
    """Its tokens come."""

    DONE = "done"
    FAILED = "failed"

    LEFT = "left"
    """Its client closed the connection before the end of the answer."""


ENDED = (RequestState.DONE, RequestState.FAILED, RequestState.LEFT)
"""States of requests that do not run any more."""


class RequestRecord(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A request for the model that ended.

    Attributes:
        request_id: the client's id.
        endpoint: path of the URL.
        model: name of the model that the client asked for.
        status: HTTP status of the answer; `CLIENT_CLOSED` if the client had left.
        error: kind of failure; empty if it succeeded.
        finish_reason, worker, timeline: see `Reply`.
        processor: index of the processor that prepared it; None if none did.
        streamed: whether the answer was streamed.
        arrival_ns: when the frontend had read its head, CLOCK_MONOTONIC.
        first_byte_ns: when the frontend had the first tokens of a streamed answer; 0 if none came.
        ended_ns: when its answer was written.
        moves: its moves to other processes, oldest first.
        session: the client's X-Session-ID; empty if it has none.
    """

    request_id: str
    endpoint: str
    model: str
    status: int
    arrival_ns: int
    ended_ns: int
    error: str = ""
    finish_reason: str = ""
    worker: int | None = None
    processor: int | None = None
    streamed: bool = False
    usage: Usage = Usage()
    first_byte_ns: int = 0
    timeline: Timeline = Timeline()
    moves: tuple[Move, ...] = ()
    session: str = ""

    @property
    def ttft_ns(self) -> int | None:
        """Time from arrival to the first token; None if there was none."""
        first = self.first_byte_ns or self.timeline.first_token_ns
        return first - self.arrival_ns if first else None

    def stages(self) -> dict[str, int]:
        """Times of its stages in order: name -> CLOCK_MONOTONIC, nanoseconds."""
        timeline = self.timeline
        known = {
            "arrival": self.arrival_ns,
            "received": timeline.received_ns,
            "prepared": timeline.prepared_ns,
            "routed": timeline.routed_ns,
            "sent": timeline.sent_ns,
            "pushed": timeline.pushed_ns,
            "leased": timeline.leased_ns,
            "prefilled": timeline.prefilled_ns,
            "queued": timeline.queued_ns,
            "scheduled": timeline.scheduled_ns,
            "first_token": timeline.first_token_ns,
            "first_byte": self.first_byte_ns,
            "last_token": timeline.ended_ns,
            "ended": self.ended_ns,
        }
        return dict(sorted(((n, t) for n, t in known.items() if t), key=lambda stage: stage[1]))


class TimelineView(msgspec.Struct, frozen=True):
    """A request for people and programs.

    Attributes:
        status: HTTP status of the answer; 0 while it runs.
        age_s: time since its arrival.
        arrival_s: its arrival on the server's monotonic clock, seconds; with the id it identifies
            the request.
        prefill_worker: index of the prefill worker that did its prefill; None if none did.
        stages_ms: times of its stages in order, milliseconds after its arrival. Of a request that
            moved, "sent" is for its first worker, "queued" and "scheduled" are in the engine that
            gave its first token. Processes report most stages at the end of a request; of one that
            runs, only its arrival, the choice of its worker and its first token are known.
        moves: its moves to other processes, oldest first.
        state: how far it is, a `RequestState`.
        number: number of a request that ended; it grows by one. 0 for one that runs.
        session: the client's X-Session-ID; empty if it has none.
        ttft_ms: time from its arrival to its first token, milliseconds; None before that.
    """

    request_id: str
    endpoint: str
    model: str
    status: int
    error: str
    finish_reason: str
    worker: int | None
    processor: int | None
    prefill_worker: int | None
    streamed: bool
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    age_s: float
    stages_ms: dict[str, float]
    moves: list[MoveStep] = []
    state: str = RequestState.DONE
    number: int = 0
    session: str = ""
    ttft_ms: float | None = None
    arrival_s: float = 0.0


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(RequestRecord).decode


class TimelineLog:
    """The last `KEPT` requests that reached a processor."""

    def __init__(self) -> None:
        # Encoded: that halves the memory, and the garbage collector has nothing to traverse.
        self._kept: deque[tuple[str, bool, bytes]] = deque(maxlen=KEPT)
        self._last_number = 0

    def add(self, record: RequestRecord) -> None:
        """Add a request that ended."""
        self._last_number += 1
        self._kept.append((record.request_id, bool(record.moves), _encode(record)))

    def views(
        self,
        now_ns: int,
        *,
        limit: int = KEPT,
        request_id: str | None = None,
        moved: bool | None = None,
        after: int = 0,
    ) -> Iterator[TimelineView]:
        """Iterate over requests, newest first. Each view is made when the iterator reaches it.

        Args:
            now_ns: current time, for ages.
            limit: most requests.
            request_id: only requests with this id; a client can use an id again.
            moved: True: only requests that moved; False: only those that did not.
            after: only requests with a higher number.
        """
        found = list(islice(self._newest(request_id, moved, after), limit))
        return (_ended(_decode(packed), number, now_ns) for number, packed in found)

    def _newest(
        self, request_id: str | None, moved: bool | None, after: int
    ) -> Iterator[tuple[int, bytes]]:
        for back, (kept_id, has_moved, packed) in enumerate(reversed(self._kept)):
            if (number := self._last_number - back) <= after:
                return
            if request_id in (None, kept_id) and moved in (None, has_moved):
                yield number, packed


def running(
    record: RequestRecord,
    decision: RoutingDecision | None,
    tokens: int,
    now_ns: int,
    *,
    begun: bool,
) -> TimelineView:
    """Make the view of a request that runs.

    Args:
        record: what the frontend knows of it.
        decision: the last routing decision for it; None if none was made.
        tokens: number of tokens of its answer that have come.
        now_ns: current time.
        begun: whether its engine has begun to generate, if it is not streamed.
    """
    known = decision if decision is not None and decision.worker is not None else None
    routed = record.worker is not None or known is not None
    begun = begun or tokens > 0 or record.first_byte_ns > 0
    waiting = RequestState.PREFILL if routed else RequestState.UNPLACED
    stages = {"arrival": 0.0}
    if known is not None:
        stages["routed"] = _since(record, known.decided_ns)
    if record.first_byte_ns:
        stages["first_byte"] = _since(record, record.first_byte_ns)
    return msgspec.structs.replace(
        _view(record, now_ns),
        status=0,
        state=RequestState.DECODE if begun else waiting,
        worker=record.worker if known is None or record.first_byte_ns else known.worker,
        prompt_tokens=known.prompt_tokens if known else 0,
        output_tokens=tokens,
        session=record.session,
        stages_ms=stages,
    )


def _ended(record: RequestRecord, number: int, now_ns: int) -> TimelineView:
    failed = bool(record.error) or record.status >= FIRST_ERROR
    state = RequestState.FAILED if failed else RequestState.DONE
    if record.status == CLIENT_CLOSED:
        state = RequestState.LEFT
    return msgspec.structs.replace(_view(record, now_ns), state=state, number=number)


def _since(record: RequestRecord, at_ns: int) -> float:
    return round((at_ns - record.arrival_ns) / MS_NS, 3)


def _view(record: RequestRecord, now_ns: int) -> TimelineView:
    ttft_ns = record.ttft_ns
    return TimelineView(
        request_id=record.request_id,
        endpoint=record.endpoint,
        model=record.model,
        status=record.status,
        error=record.error,
        finish_reason=record.finish_reason,
        worker=record.worker,
        processor=record.processor,
        prefill_worker=record.timeline.prefill_worker,
        streamed=record.streamed,
        prompt_tokens=record.usage.prompt_tokens,
        cached_tokens=record.usage.cached_tokens,
        output_tokens=record.usage.output_tokens,
        age_s=(now_ns - record.arrival_ns) / SECOND_NS,
        stages_ms={name: _since(record, at) for name, at in record.stages().items()},
        moves=[moves.step(move, record.arrival_ns) for move in record.moves],
        session=record.session,
        ttft_ms=None if ttft_ns is None else round(ttft_ns / MS_NS, 3),
        arrival_s=record.arrival_ns / SECOND_NS,
    )
