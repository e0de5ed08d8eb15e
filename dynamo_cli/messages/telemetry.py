"""Load of the engines and processors."""

from __future__ import annotations

from dynamo_cli.messages.base import Message

# -- worker -> frontend and router, processor -> frontend: telemetry --------------------------


class WorkerStats(Message, frozen=True):
    """The engine's load, sent at most a few times a second and whenever it becomes idle.

    Counters are totals of this life of the worker.

    Attributes:
        sent_ns: when it was so.
        asleep: it takes no requests until it is woken up.
        num_away_reqs: whose prompts are being prefilled elsewhere; the engine has none of them yet.
        kept_requests: that it knows of, running or not.
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
        """Nothing is on this worker, and nothing is to come back to it."""
        return not (self.num_running_reqs or self.num_waiting_reqs or self.num_away_reqs)


class ProcessorStats(Message, frozen=True):
    """What a processor holds now, and what it did without the router in this life.

    Sent when it changes, at most a few times a second, and until nothing is held any more.

    Attributes:
        unrouted: requests that it placed itself.
        requests: of clients, that are being answered.
        engine_requests: of those, that are on a worker.
        placed: of those, that count as load.
        queries: that the router has not answered.
        calls: that workers have not answered.
    """

    unrouted: int
    refused_sends: int
    requests: int = 0
    engine_requests: int = 0
    placed: int = 0
    queries: int = 0
    calls: int = 0
