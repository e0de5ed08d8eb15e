"""The last requests, each with the times of its stages. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import islice

import msgspec

from dynamo_cli.messages.request import Move, Timeline, Usage
from dynamo_cli.units import MS_NS, SECOND_NS
from dynamo_cli.watch import moves
from dynamo_cli.watch.moves import MoveStep

KEPT = 10_000
CLIENT_CLOSED = 499
"""Status in logs and counters of a request whose client disconnected before the answer."""


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
    """A `RequestRecord` for people and programs.

    Attributes:
        age_s: time since its arrival.
        prefill_worker: index of the prefill worker that did its prefill; None if none did.
        stages_ms: times of its stages in order, milliseconds after its arrival. Of a request that
            moved, "sent" is for its first worker, "queued" and "scheduled" are in the engine that
            gave its first token.
        moves: its moves to other processes, oldest first.
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


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(RequestRecord).decode


class TimelineLog:
    """The last `KEPT` requests that reached a processor."""

    def __init__(self) -> None:
        # Encoded: that halves the memory, and the garbage collector has nothing to traverse.
        self._kept: deque[tuple[str, bool, bytes]] = deque(maxlen=KEPT)

    def add(self, record: RequestRecord) -> None:
        """Add a request that ended."""
        self._kept.append((record.request_id, bool(record.moves), _encode(record)))

    def views(
        self,
        now_ns: int,
        *,
        limit: int = KEPT,
        request_id: str | None = None,
        moved: bool | None = None,
    ) -> Iterator[TimelineView]:
        """Iterate over requests, newest first. Each view is made when the iterator reaches it.

        Args:
            now_ns: current time, for ages.
            limit: most requests.
            request_id: only requests with this id; a client can use an id again.
            moved: True: only requests that moved; False: only those that did not.
        """
        found = list(islice(self._newest(request_id, moved), limit))
        return (_view(_decode(packed), now_ns) for packed in found)

    def _newest(self, request_id: str | None, moved: bool | None) -> Iterator[bytes]:
        for kept_id, has_moved, packed in reversed(self._kept):
            if request_id in (None, kept_id) and moved in (None, has_moved):
                yield packed


def _view(record: RequestRecord, now_ns: int) -> TimelineView:
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
        stages_ms={
            name: round((at - record.arrival_ns) / MS_NS, 3) for name, at in record.stages().items()
        },
        moves=[moves.step(move, record.arrival_ns) for move in record.moves],
    )
