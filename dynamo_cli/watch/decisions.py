"""The last routing decisions, and the cached tokens that engines then measured. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator
from itertools import islice

import msgspec

from dynamo_cli.messages.routing import Candidate, Decisions, RoutingDecision
from dynamo_cli.units import SECOND_NS

KEPT = 10_000
RECENT = 1_000
"""Number of measurements that are kept for followers of the stream."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(RoutingDecision).decode


class CandidateView(msgspec.Struct, frozen=True):
    """A worker that could have taken the request; `cost` is the sum of `terms`."""

    worker: int
    overlap_blocks: int
    cost: float
    terms: dict[str, float]


class DecisionView(msgspec.Struct, frozen=True):
    """Why a request went where it went; see `RoutingDecision`.

    Attributes:
        number: number of the decision; it grows by one.
        request_id: the client's id; several engine requests can share it.
        engine_request_id: the engine's id.
        predicted_tokens: prompt tokens that the router expected in the winner's cache or the host
            cache.
        measured_tokens: prompt tokens that the engine found there; None until it has reported.
        waited_us, decision_us: time until a worker was free, and of the choice, microseconds.
        age_s: time since the decision.
        prefill_worker: the prefill worker that holds most of the prompt; None if none does.
        session: the client's X-Session-ID; empty if it has none.
        moved: why the request had to leave another worker, a `MoveReason`; empty for a new one.
        moved_from: index of the worker that it left; None for a new one.
        output_tokens: number of tokens that its answer had at that time.
        overlap_blocks: leading blocks of the prompt in the winner's cache.
        host_blocks: leading blocks of the prompt in the host cache.
        disk_blocks: the last of these, which were only on its disk.
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
    moved: str = ""
    moved_from: int | None = None
    output_tokens: int = 0
    host_blocks: int = 0
    disk_blocks: int = 0


class Measurement(msgspec.Struct, frozen=True):
    """Tokens that an engine had cached or loaded, for a request whose decision was sent before.

    Attributes:
        number: number of the measurement; it grows by one.
    """

    number: int
    engine_request_id: str
    measured_tokens: int


class _Kept(msgspec.Struct, gc=False):
    """A decision, encoded to save memory: with many candidates it would be a thousand objects."""

    number: int
    engine_id: str
    api_id: str
    worker: int | None
    moved: bool
    packed: bytes
    measured_tokens: int | None = None


class DecisionLog:
    """The last `KEPT` decisions.

    Attributes:
        dropped: number of decisions that the router did not report because there were too many at
            once.
    """

    def __init__(self) -> None:
        self._kept: deque[_Kept] = deque()
        self._latest: dict[str, _Kept] = {}  # by the engine's request id; several if it moved
        self._measurements: deque[Measurement] = deque(maxlen=RECENT)
        self._last_number = self._last_measurement = 0
        self.dropped = 0

    def add(self, news: Decisions) -> None:
        """Add decisions and measurements that the router reports."""
        for decision in news.decisions:
            self._last_number += 1
            self._keep(decision)
        for measured in news.measured:
            if (kept := self._latest.get(measured.request_id)) is not None:
                kept.measured_tokens = measured.cached_tokens
                self._last_measurement += 1
                self._measurements.append(
                    Measurement(self._last_measurement, *msgspec.structs.astuple(measured))
                )
        self.dropped = news.dropped

    def _keep(self, decision: RoutingDecision) -> None:
        kept = _Kept(
            number=self._last_number,
            engine_id=decision.request_id,
            api_id=decision.api_id,
            worker=decision.worker,
            moved=bool(decision.moved),
            packed=_encode(decision),
        )
        self._kept.append(kept)
        self._latest[kept.engine_id] = kept
        if len(self._kept) > KEPT:
            oldest = self._kept.popleft()
            if self._latest.get(oldest.engine_id) is oldest:
                del self._latest[oldest.engine_id]

    @property
    def last_number(self) -> int:
        """Number of the newest decision; 0 before any."""
        return self._last_number

    def measurements(self, after: int) -> list[Measurement]:
        """Return the recent measurements with a number above `after`, oldest first."""
        return [one for one in self._measurements if one.number > after]

    def latest(self, api_ids: Collection[str]) -> dict[str, RoutingDecision]:
        """Return the last decision for each of these requests, by the client's id, as far as there
        is one."""
        found: dict[str, RoutingDecision] = {}
        for kept in reversed(self._kept):
            if len(found) == len(api_ids):
                break
            if kept.api_id in api_ids and kept.api_id not in found:
                found[kept.api_id] = _decode(kept.packed)
        return found

    def views(
        self,
        now_ns: int,
        *,
        limit: int = KEPT,
        worker: int | None = None,
        unplaced: bool = False,
        request_id: str | None = None,
        moved: bool | None = None,
        after: int = 0,
    ) -> Iterator[DecisionView]:
        """Iterate over decisions, newest first. Each view is made when the iterator reaches it, but
        decisions that come in the meantime are not included.

        Args:
            now_ns: current time, for ages.
            limit: most decisions.
            worker: only decisions for this worker.
            unplaced: only decisions that no worker could take the request.
            request_id: only decisions for this request, by the client's id or the engine's.
            moved: True: only decisions for requests that left a worker; False: only others.
            after: only decisions with a higher number.
        """
        chosen = (
            kept
            for kept in self._newest(worker, unplaced, request_id, after)
            if moved is None or kept.moved is moved
        )
        found = list(islice(chosen, limit))
        return (_view(kept, now_ns) for kept in found)

    def _newest(
        self, worker: int | None, unplaced: bool, request_id: str | None, after: int
    ) -> Iterator[_Kept]:
        for kept in reversed(self._kept):
            if kept.number <= after:
                return
            if (unplaced or worker is not None) and kept.worker != worker:
                continue
            if request_id is None or request_id in (kept.engine_id, kept.api_id):
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
        predicted_tokens=decision.predicted_tokens,
        measured_tokens=kept.measured_tokens,
        margin=decision.margin,
        waited_us=decision.waited_us,
        decision_us=decision.decision_us,
        age_s=(now_ns - decision.decided_ns) / SECOND_NS,
        prefill_worker=decision.prefill_worker,
        candidates=[_candidate(one) for one in decision.candidates],
        session=decision.session,
        moved=decision.moved,
        moved_from=decision.moved_from,
        output_tokens=decision.output_tokens,
        host_blocks=decision.host_blocks,
        disk_blocks=decision.disk_blocks,
    )


def _candidate(candidate: Candidate) -> CandidateView:
    return CandidateView(
        candidate.worker, candidate.overlap_blocks, candidate.cost, candidate.terms
    )
