"""Periodic reports on the load of engines and processors."""

from __future__ import annotations

from itertools import zip_longest

import msgspec

from dynamo_cli.messages.base import Message

# -- worker -> all that use its engine: a part of `EngineReady` -------------------------------


class CacheFacts(msgspec.Struct, array_like=True, frozen=True):
    """What an engine says about its KV cache.

    Attributes:
        tokens: tokens that fit, where the engine counts them itself: groups of layers can share
            blocks or take several; else 0.
        full_length_requests: requests of the longest length that fit at once, likewise.
        settings: names and values for ``vllm:cache_config_info``.
    """

    tokens: int = 0
    full_length_requests: float = 0.0
    settings: dict[str, str] = {}


# -- worker -> frontend and router, processor -> frontend: telemetry --------------------------


STEP_TOKENS_BOUNDS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
"""Upper bounds of the tokens of an engine step in `EngineCounts.step_tokens`, as in vLLM."""


class EngineCounts(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Further totals of an engine, which only metrics show. They can be added.

    Attributes:
        step_tokens: number of steps that gave tokens, by `STEP_TOKENS_BOUNDS`; the last number is
            for larger ones. A step's tokens are those that it generated, and those of the prompts
            that it has ended.
        step_tokens_sum: tokens of all these steps.
        local_cached_tokens: tokens of prompts that were in the prefix cache.
        external_cached_tokens: tokens of prompts that came from the host cache or a prefill worker.
        drafts, draft_tokens, accepted_tokens: speculative decoding: drafts, their tokens, and those
            of them that were accepted.
        accepted_by_position: accepted tokens by their position in the draft.
    """

    step_tokens: tuple[int, ...] = ()
    step_tokens_sum: int = 0
    local_cached_tokens: int = 0
    external_cached_tokens: int = 0
    drafts: int = 0
    draft_tokens: int = 0
    accepted_tokens: int = 0
    accepted_by_position: tuple[int, ...] = ()

    def __add__(self, other: EngineCounts) -> EngineCounts:
        return EngineCounts(
            _added(self.step_tokens, other.step_tokens),
            self.step_tokens_sum + other.step_tokens_sum,
            self.local_cached_tokens + other.local_cached_tokens,
            self.external_cached_tokens + other.external_cached_tokens,
            self.drafts + other.drafts,
            self.draft_tokens + other.draft_tokens,
            self.accepted_tokens + other.accepted_tokens,
            _added(self.accepted_by_position, other.accepted_by_position),
        )


def _added(one: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(a + b for a, b in zip_longest(one, other, fillvalue=0))


class WorkerStats(Message, frozen=True):
    """The load of a worker's engine, sent a few times a second at most, and when it becomes idle.

    Counters are totals since the worker was last started.

    Attributes:
        sent_ns: when these numbers were taken.
        asleep: the engine sleeps and takes no requests until it is woken up.
        num_away_reqs: requests whose prompts prefill workers compute; they are not in the engine
            yet, and not counted as running or waiting.
        kept_requests: requests for which the engine holds any state, and what it has at the host
            cache (searches, slots that are being written); a leak shows here.
        num_deferred_reqs: those of the waiting requests that wait for something else than room in
            the batch or the cache, such as blocks that are being loaded.
        counts: further totals.
    """

    worker: int
    num_running_reqs: int
    num_waiting_reqs: int
    kv_cache_usage: float
    prefix_cache_queries_tokens: int
    prefix_cache_hits_tokens: int
    prompt_tokens: int
    output_tokens: int
    preemptions: int
    steps: int
    refused_sends: int
    sent_ns: int = 0
    asleep: bool = False
    num_away_reqs: int = 0
    kept_requests: int = 0
    num_deferred_reqs: int = 0
    counts: EngineCounts = EngineCounts()

    @property
    def idle(self) -> bool:
        """Whether the worker has no request, neither in its engine nor at a prefill worker."""
        return not (self.num_running_reqs or self.num_waiting_reqs or self.num_away_reqs)


class ProcessorStats(Message, frozen=True):
    """What a processor works on, and how often it placed requests without the router.

    Sent a few times a second at most while it works on any request, and once more when on none.

    Attributes:
        unrouted: requests that it placed itself since it was started.
        requests: API requests in flight.
        engine_requests: engine requests that were placed and have not ended; an API request can
            have several.
        placed: engine requests that count as load of a worker.
        queries: queries that the router has not answered.
        calls: utility calls that workers have not answered.
        begun: the frontend's keys of requests that got their first token since the last report, and
            whose answers are not streamed: the frontend cannot see that otherwise.
        preparing: API requests whose template, tokenizer and checks are not done.
    """

    unrouted: int
    refused_sends: int
    requests: int = 0
    engine_requests: int = 0
    placed: int = 0
    queries: int = 0
    calls: int = 0
    begun: tuple[str, ...] = ()
    preparing: int = 0
