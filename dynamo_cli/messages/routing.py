"""Which worker, and why: processor and router, and what workers' caches hold."""

from __future__ import annotations

import msgspec

from dynamo_cli.messages.base import Message

NO_WORKER = "no_worker"
"""Reason of a decision: no worker could take the request."""

# -- processor -> router ---------------------------------------------------------------------


class RouteQuery(Message, frozen=True):
    """Which worker should serve this request? Answered by a `RouteAnswer`, now or when one is free.

    Attributes:
        request_id: the engine's, under which all that follows goes.
        api_id: the client's, under which people look for it.
        prompt_tokens: length of the prompt.
        hashes: sequence hashes of the prompt's full blocks, packed u64; empty where nothing can be
            found in a cache or the policy does not look there.
        session: the client's X-Session-ID; empty when it has none.
        priority: smaller comes first.
    """

    request_id: str
    api_id: str
    prompt_tokens: int
    hashes: bytes = b""
    session: str = ""
    priority: int = 0


class Placed(Message, frozen=True):
    """A request is on this worker: a sign of life, repeated now and then while it runs.

    News to the router when it did not choose the worker: for a sibling that follows its family,
    or one that was placed while there was no router, or by another life of the router.

    Attributes:
        prefilled: its first token has come.
    """

    request_id: str
    worker: int
    prompt_tokens: int
    prefilled: bool


class FirstToken(Message, frozen=True):
    """The request's prefill is over; `cached_tokens` of it the engine found in its cache."""

    request_id: str
    cached_tokens: int


class RequestEnd(Message, frozen=True):
    """The request ended or was aborted: its load is gone."""

    request_id: str


# -- router -> processor ---------------------------------------------------------------------


class RouteAnswer(Message, frozen=True):
    """The worker for a request.

    Attributes:
        worker: index; None if none can take it.
        overlap_blocks: leading blocks of the prompt that it holds, as far as the router knows.
        prefill_worker: index of the prefill worker that holds most of them; None: none holds any.
        engine_order: key by which its engine orders the requests that wait there; the smallest is
            taken first.
    """

    request_id: str
    worker: int | None
    overlap_blocks: int
    prefill_worker: int | None = None
    engine_order: int = 0


# -- worker -> router: what its cache holds --------------------------------------------------


class KvEvents(Message, frozen=True):
    """What one engine step changed in the worker's prefix cache; applied whole.

    Sequence hashes as packed u64. What is published is closed: a block whose parent is not held
    cannot be found, so it is not published either.

    Attributes:
        sequence: one more than that of the message before, in this life of the worker.
        whole: `stored` is all that the worker holds; what was known of it before is void.
        created_ns: when the engine step ended.
        unknown: blocks that could not be translated so far in this life, by reason.
    """

    worker: int
    sequence: int
    stored: bytes
    removed: bytes
    whole: bool
    created_ns: int
    unknown: dict[str, int]


# -- router -> worker ------------------------------------------------------------------------


class Resync(Message, frozen=True):
    """Events were lost: send the whole set."""


# -- router -> frontend: telemetry -------------------------------------------------------------


class Candidate(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What one worker looked like at a decision, and what it would have cost.

    Attributes:
        cost: of this request on this worker, in the policy's own unit; lower is better.
        overlap_blocks: leading blocks of the prompt that it holds.
        terms: the parts that the cost is the sum of, by name.
    """

    worker: int
    cost: float
    overlap_blocks: int
    terms: dict[str, float]


class RoutingDecision(Message, frozen=True):
    """The worker for a request, and why.

    Attributes:
        request_id: the engine's; `api_id` is the client's.
        worker: index of the winner; None if none could take the request.
        policy: the policy that chose.
        reason: what decided: cost, session, no_overlap, or `NO_WORKER`.
        prompt_tokens, required_blocks: of the prompt; the last block need not be full.
        overlap_blocks: that the winner holds.
        block_size: tokens per block.
        candidates: every worker that could have taken it.
        margin: by how much the second best would have cost more; 0 without a second.
        waited_us: time until a worker was free, microseconds.
        decision_us: time that the choice took, microseconds.
        decided_ns: when.
        prefill_worker: the one that holds most of the prompt; None: none holds any.
        session: the client's; empty when it has none.
        engine_order: as in `RouteAnswer`.
    """

    request_id: str
    api_id: str
    worker: int | None
    policy: str
    reason: str
    prompt_tokens: int
    required_blocks: int
    overlap_blocks: int
    block_size: int
    candidates: list[Candidate]
    margin: float
    waited_us: float
    decision_us: float
    decided_ns: int
    prefill_worker: int | None = None
    session: str = ""
    engine_order: int = 0

    def timed(self, elapsed_ns: int) -> RoutingDecision:
        """The same decision with the time that it took."""
        return msgspec.structs.replace(self, decision_us=elapsed_ns / 1000)


class Measured(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What the engine found in its cache of a request that was routed before."""

    request_id: str
    cached_tokens: int


class Decisions(Message, frozen=True):
    """News of the router since the last such message, in order.

    Attributes:
        dropped: decisions that were not kept for this because too many came at once, in this life.
    """

    decisions: list[RoutingDecision]
    measured: list[Measured]
    dropped: int


class RouterStats(Message, frozen=True):
    """What the router has done in this life, and what it knows now. By worker index where a dict.

    Attributes:
        decisions: how often each worker was chosen.
        active_requests, prefill_blocks, decode_blocks: in the ledger now.
        waiting_requests: that no worker can take yet.
        index_blocks: that each worker holds; `index_entries` counts those shared once.
        index_bytes: memory of the index, estimated from its size.
        event_blocks: stored, removed, unknown ... since the start.
        event_lag_us: the newest batch's age when it was applied.
        resyncs: by reason (start, gap).
        prompt_tokens, predicted_tokens, measured_tokens: of requests whose prefill is over, since
            the start; predicted and measured are those found in the cache.
        over_predicted_requests: for which more was predicted than measured.
        released: ledger entries that ended otherwise than by their request's end, by reason.
        silent_workers: that have sent no event although requests with full blocks finished there.
        decision_us: histogram of the time of a decision: counts per bound of `DECISION_BOUNDS_US`.
        asked_tokens, repeated_tokens: of all prompts; repeated are those whose blocks some prompt
            before had too: what an endless cache would have held.
        forgotten_blocks: that were asked for before and would not be known as repeated.
        entries: requests in the ledger now, also of workers that take nothing more.
        promised_blocks: that count as held because they are being computed.
    """

    policy: str
    decisions: dict[int, int]
    active_requests: dict[int, int]
    refused_sends: int
    prefill_blocks: dict[int, int] = msgspec.field(default_factory=dict)
    decode_blocks: dict[int, int] = msgspec.field(default_factory=dict)
    waiting_requests: int = 0
    index_blocks: dict[int, int] = msgspec.field(default_factory=dict)
    index_entries: int = 0
    index_bytes: int = 0
    event_blocks: dict[str, int] = msgspec.field(default_factory=dict)
    event_lag_us: float = 0.0
    resyncs: dict[str, int] = msgspec.field(default_factory=dict)
    prompt_tokens: int = 0
    predicted_tokens: int = 0
    measured_tokens: int = 0
    over_predicted_requests: int = 0
    released: dict[str, int] = msgspec.field(default_factory=dict)
    silent_workers: list[int] = msgspec.field(default_factory=list)
    decision_us: list[int] = msgspec.field(default_factory=list)
    decision_total_us: float = 0.0
    asked_tokens: int = 0
    repeated_tokens: int = 0
    forgotten_blocks: int = 0
    entries: int = 0
    promised_blocks: int = 0


DECISION_BOUNDS_US = (10, 20, 50, 100, 200, 500, 1000, 5000)
