"""Routing: queries of processors, decisions of the router, and what workers have cached."""

from __future__ import annotations

import msgspec

from dynamo_cli.messages.base import Message

REASON_NO_WORKER = "no_worker"
"""Reason of a decision: no worker could take the request."""

WAITING_WEIGHT = 4
"""How many requests with a first token count as much as one without.

A request that waits for its first token still has its whole prefill to do. vLLM's balance between
data-parallel engines used the same weight (``DPLBAsyncMPClient.get_core_engine_for_request`` in
vllm/v1/engine/core_client.py, 0.10); in 0.32 it depends on how full the engine's cache is.
"""


def weighted_requests(active: int, waiting: int) -> int:
    """Return the number of requests of a worker, of which those that wait count `WAITING_WEIGHT`.

    Args:
        active: requests that it has.
        waiting: those of them without a first token.
    """
    return active + (WAITING_WEIGHT - 1) * waiting


# -- processor -> router ---------------------------------------------------------------------


class RouteQuery(Message, frozen=True):
    """Which worker should serve this request? Answered by a `RouteAnswer` once a worker is free.

    Attributes:
        request_id: the engine's id of the request, which all later messages about it use. It is
            another one after each move.
        api_id: the id of the request in answers and in the log.
        prompt_tokens: length of the prompt.
        hashes: sequence hashes of the prompt's full blocks, packed u64; empty if the request must
            not read the prefix cache or the policy does not use it.
        session: the client's X-Session-ID; empty when there is none.
        priority: requests with a smaller number are placed first.
        excluded: workers that must not get it: they have refused it, or its first token took too
            long there, or they are gone or retired and the router may not know it yet.
        moved: why it moves, a `MoveReason`; empty for a new request. A request that moves is
            placed before all new ones that wait.
        moved_from: index of the worker that it leaves; None for a new request, and if it moves
            because its processor was lost.
        output_tokens: output tokens that it has already; `prompt_tokens` does not count them.
    """

    request_id: str
    api_id: str
    prompt_tokens: int
    hashes: bytes = b""
    session: str = ""
    priority: int = 0
    excluded: tuple[int, ...] = ()
    moved: str = ""
    moved_from: int | None = None
    output_tokens: int = 0


class Placed(Message, frozen=True):
    """A request is on this worker; repeated every 20 s while it runs, as a sign of life.

    From this message the router learns of requests whose worker it did not choose: siblings (n > 1)
    that go where the first one went, requests that were placed while there was no router, and
    requests that were placed before the router was restarted.

    Attributes:
        prefilled: whether its first token has come.
    """

    request_id: str
    worker: int
    prompt_tokens: int
    prefilled: bool


class FirstToken(Message, frozen=True):
    """The prefill of a request is over.

    Attributes:
        cached_tokens: tokens of the prompt that were in the engine's cache or were loaded from the
            host cache; 0 for a request that its engine resumes.
    """

    request_id: str
    cached_tokens: int


class RequestEnd(Message, frozen=True):
    """The request ended, was aborted or has moved, and is no load of this worker any more."""

    request_id: str


# -- router -> processor ---------------------------------------------------------------------


class RouteAnswer(Message, frozen=True):
    """The worker for a request.

    Attributes:
        worker: index of the worker; None if no worker can take the request.
        overlap_blocks: leading blocks of the prompt that the worker has cached, and will still have
            when the request begins, or can load from the host cache, as far as the router knows.
        prefill_worker: index of the prefill worker that holds most blocks of the prompt; None if
            none holds any.
        engine_order: key by which the engine orders the requests that wait there; the smallest is
            taken first.
    """

    request_id: str
    worker: int | None
    overlap_blocks: int
    prefill_worker: int | None = None
    engine_order: int = 0


# -- worker -> router: what its cache holds --------------------------------------------------


class KvEvents(Message, frozen=True):
    """What one engine step changed in the worker's prefix cache; applied as a whole.

    A host cache sends the same of its own blocks; its worker is `host_cache.holder` of its machine
    and of the tier.

    A block is published only while its parent is cached too, since it cannot be found otherwise.

    Attributes:
        sequence: one more than in the message before; it starts from 1 when the worker is started.
        stored: sequence hashes of blocks that are now cached, packed u64.
        removed: sequence hashes of blocks that are not cached any more, packed u64.
        whole: whether `stored` is all that the worker has cached, which replaces what was known.
        created_ns: when the engine step ended.
        unknown: blocks that could not be translated since the worker was started, by reason.
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
    """Events were lost: publish everything that is cached."""


# -- router -> frontend: telemetry -------------------------------------------------------------


class Candidate(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What the router knew of one worker at a decision, and the cost of choosing it.

    Attributes:
        cost: what this request would cost on this worker, in the unit of the policy; lower is
            better.
        overlap_blocks: leading blocks of the prompt that the worker has cached and will still have
            when the request begins.
        terms: the summands of the cost, by name.
    """

    worker: int
    cost: float
    overlap_blocks: int
    terms: dict[str, float]


class RoutingDecision(Message, frozen=True):
    """The worker for a request, and why.

    Attributes:
        request_id: the engine's id of the request.
        api_id: the client's id of the request.
        worker: index of the winner; None if none could take the request.
        policy: name of the policy that chose.
        reason: what decided: cost; no_overlap, which is the cost too, where nobody holds any of
            the prompt; session; or `REASON_NO_WORKER`.
        prompt_tokens: length of the prompt.
        required_blocks: blocks of the prompt, of which the last need not be full.
        overlap_blocks: `overlap_blocks` of the winner, see `Candidate`.
        block_size: tokens per block.
        candidates: the workers that were compared: every one that could have taken the request, or
            the most likely ones of more than 64.
        margin: how much more the second best would have cost; 0 without a second.
        waited_us: time that the query waited until a worker was free, microseconds.
        decision_us: time that the choice took, microseconds.
        decided_ns: when the choice was made.
        prefill_worker: as in `RouteAnswer`.
        session: the client's X-Session-ID; empty when there is none.
        engine_order: as in `RouteAnswer`.
        moved, moved_from, output_tokens: as in `RouteQuery`.
        host_blocks: leading blocks of the prompt that the host cache of the winner's machine holds;
            every worker there can load those of them that it has not cached.
        disk_blocks: how many of `host_blocks`, the last ones, are only on disk.
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
    moved: str = ""
    moved_from: int | None = None
    output_tokens: int = 0
    host_blocks: int = 0
    disk_blocks: int = 0

    @property
    def predicted_tokens(self) -> int:
        """Prompt tokens that the winner is expected to have cached or to load."""
        return max(self.overlap_blocks, self.host_blocks) * self.block_size

    def timed(self, elapsed_ns: int) -> RoutingDecision:
        """Return the same decision with the time that it took."""
        return msgspec.structs.replace(self, decision_us=elapsed_ns / 1000)


class Measured(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """How many tokens of a routed request the engine found in its cache or loaded."""

    request_id: str
    cached_tokens: int


class Decisions(Message, frozen=True):
    """Decisions and measurements since the last such message, in order.

    Attributes:
        dropped: decisions that were not reported because too many came at once, since the router
            was started.
    """

    decisions: list[RoutingDecision]
    measured: list[Measured]
    dropped: int


class RouterStats(Message, frozen=True):
    """What the router knows now, and what it has done since it was started.

    The keys of dicts are worker indexes, unless said otherwise.

    Attributes:
        decisions: how often each worker was chosen.
        active_requests: requests that were placed on each worker and have not ended.
        refused_sends: messages that full links have refused.
        prefill_blocks: blocks that each worker has yet to compute for its waiting requests.
        decode_blocks: blocks that the active requests of each worker occupy.
        waiting_requests: queries that no worker can take yet.
        index_blocks: blocks that each worker has cached.
        index_entries: cached blocks over all workers; a block that several workers have counts
            once.
        index_bytes: estimated memory of this index and of the one for host caches.
        event_blocks: blocks by what happened to them (stored, removed, unknown ...).
        event_lag_us: age of the newest batch of events when it was applied, microseconds.
        resyncs: complete sets that workers sent, by reason (start, gap).
        prompt_tokens: total length of the prompts whose prefill is over.
        predicted_tokens: of these, tokens that the router expected in the worker's cache or the
            host cache.
        measured_tokens: of these, tokens that the engine found in its cache or loaded.
        over_predicted_requests: requests for which more was predicted than measured.
        released: ledger entries that were removed although nobody reported the end of their
            request, by reason.
        silent_workers: workers that have sent no event although requests with full blocks finished
            there.
        decision_us: histogram of the time of a decision: a count for each bound in
            `DECISION_BOUNDS_US`, then the count above the last bound.
        decision_total_us: sum of the times of all decisions, microseconds.
        asked_tokens: total length of all prompts.
        repeated_tokens: of these, tokens in leading blocks that an earlier prompt had too: the hits
            of a cache without bound.
        forgotten_blocks: blocks of earlier prompts that the router forgot to save memory; they do
            not count as repeated if they come again.
        entries: requests in the ledger now, including those of workers that take no more.
        promised_blocks: blocks that count as cached because they are being computed.
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


DECISION_BOUNDS_US = (10, 20, 50, 100, 200, 300, 500, 1000, 5000)
"""Upper bounds of the histogram of decision times, microseconds."""
