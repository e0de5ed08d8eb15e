"""Periodic reports on the load of engines and processors."""

from __future__ import annotations

from dynamo_cli.messages.base import Message

# -- worker -> frontend and router, processor -> frontend: telemetry --------------------------


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

    @property
    def idle(self) -> bool:
        """Whether the worker has no request, neither in its engine nor at a prefill worker."""
        return not (self.num_running_reqs or self.num_waiting_reqs or self.num_away_reqs)


class ProcessorStats(Message, frozen=True):
    """What a processor has in hand, and how often it placed requests without the router.

    Sent a few times a second at most while it has anything in hand, and once more when it has not.

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
