"""The last routing decisions, and what the engines then found. Pure."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator
from itertools import islice

import msgspec

from dynamo_cli.messages.routing import Candidate, Decisions, RoutingDecision
from dynamo_cli.watch.window import SECOND_NS

KEPT = 10_000
RECENT = 1_000
"""Measurements that are kept for who follows the news."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(RoutingDecision).decode


class CandidateView(msgspec.Struct, frozen=True):
    """A worker that could have taken the request; `terms` are what `cost` is the sum of."""

    worker: int
    overlap_blocks: int
    cost: float
    terms: dict[str, float]


class DecisionView(msgspec.Struct, frozen=True):
    """Why a request went where it went; see `RoutingDecision`.

    Attributes:
        number: of the decision; grows by one.
        request_id: the client's; several engine requests can have one.
        predicted_tokens: of the prompt that the router expected in the winner's cache.
        measured_tokens: that the engine found there; None while it has not said.
        age_s: since the decision.
        prefill_worker: the one that holds most of the prompt; None: none holds any.
        session: the client's X-Session-ID; empty when it has none.
    """

    number: int
    request_id: str
    engine_request_id: str
    worker: int | None
    policy: str
    reason: str
    prompt_tokens: int
    required_blocks: int
    overlap_blocks: int
    predicted_tokens: int
    measured_tokens: int | None
    margin: float
    waited_us: float
    decision_us: float
    age_s: float
    prefill_worker: int | None
    candidates: list[CandidateView]
    session: str


class Measurement(msgspec.Struct, frozen=True):
    """What the engine found of a request whose decision was shown before.

    Attributes:
        number: of the measurement; grows by one.
    """

    number: int
    engine_request_id: str
    measured_tokens: int


class _Kept(msgspec.Struct, gc=False):
    """A decision, packed: with many candidates it would be a thousand objects."""

    number: int
    api_id: str
    worker: int | None
    packed: bytes
    measured_tokens: int | None = None


class DecisionLog:
    """The last `KEPT` decisions.

    Attributes:
        dropped: decisions that the router did not report, because too many came at once.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[str, _Kept] = OrderedDict()  # by the engine's request id
        self._measurements: deque[Measurement] = deque(maxlen=RECENT)
        self._last_number = self._last_measurement = 0
        self.dropped = 0

    def add(self, news: Decisions) -> None:
        """What the router reports."""
        for decision in news.decisions:
            self._last_number += 1
            self._kept[decision.request_id] = _Kept(
                self._last_number, decision.api_id, decision.worker, _encode(decision)
            )
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        for measured in news.measured:
            if (kept := self._kept.get(measured.request_id)) is not None:
                kept.measured_tokens = measured.cached_tokens
                self._last_measurement += 1
                self._measurements.append(
                    Measurement(self._last_measurement, *msgspec.structs.astuple(measured))
                )
        self.dropped = news.dropped

    @property
    def last_number(self) -> int:
        """Of the newest decision; 0 before any."""
        return self._last_number

    def measurements(self, after: int) -> list[Measurement]:
        """The recent ones with a higher number, oldest first."""
        return [one for one in self._measurements if one.number > after]

    def views(
        self,
        now_ns: int,
        *,
        limit: int = KEPT,
        worker: int | None = None,
        request_id: str | None = None,
        after: int = 0,
    ) -> Iterator[DecisionView]:
        """The newest first, each made when it is asked for; what comes meanwhile is not among them.

        Args:
            worker: only those that it won.
            request_id: only those of this request, by the client's id or the engine's.
            after: only those with a higher number.
        """
        found = list(islice(self._newest(worker, request_id, after), limit))
        return (_view(kept, now_ns) for kept in found)

    def _newest(self, worker: int | None, request_id: str | None, after: int) -> Iterator[_Kept]:
        for engine_id, kept in reversed(self._kept.items()):
            if kept.number <= after:
                return
            if worker is not None and kept.worker != worker:
                continue
            if request_id is None or request_id in (engine_id, kept.api_id):
                yield kept


def _view(kept: _Kept, now_ns: int) -> DecisionView:
    decision = _decode(kept.packed)
    return DecisionView(
        number=kept.number,
        request_id=decision.api_id,
        engine_request_id=decision.request_id,
        worker=decision.worker,
        policy=decision.policy,
        reason=decision.reason,
        prompt_tokens=decision.prompt_tokens,
        required_blocks=decision.required_blocks,
        overlap_blocks=decision.overlap_blocks,
        predicted_tokens=decision.overlap_blocks * decision.block_size,
        measured_tokens=kept.measured_tokens,
        margin=decision.margin,
        waited_us=decision.waited_us,
        decision_us=decision.decision_us,
        age_s=(now_ns - decision.decided_ns) / SECOND_NS,
        prefill_worker=decision.prefill_worker,
        candidates=[_candidate(one) for one in decision.candidates],
        session=decision.session,
    )


def _candidate(candidate: Candidate) -> CandidateView:
    return CandidateView(
        candidate.worker, candidate.overlap_blocks, candidate.cost, candidate.terms
    )
