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
        num_away_reqs: requests whose prompts prefill workers compute; the engine has none of them
            yet.
        kept_requests: requests that the worker keeps anything of, whether they run or not.
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
    """What a processor keeps now, and how often it placed requests without the router.

    Sent a few times a second at most while anything is kept, and once more when nothing is.

    Attributes:
        unrouted: requests that it placed itself since it was started.
        requests: API requests in flight.
        engine_requests: engine requests that are on a worker; an API request can have several.
        placed: engine requests that count as load of a worker.
        queries: queries that the router has not answered.
        calls: utility calls that workers have not answered.
        begun: requests whose answers are not streamed and have had their first token since the last
            report, by the frontend's keys.
    """

    unrouted: int
    refused_sends: int
    requests: int = 0
    engine_requests: int = 0
    placed: int = 0
    queries: int = 0
    calls: int = 0
    begun: tuple[str, ...] = ()
