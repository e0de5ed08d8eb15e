"""The router's state: which workers there are, and the load that it has promised to each. Pure."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass, field

from dynamo_cli.messages import RouteQuery, RouterStats, RoutingDecision
from dynamo_cli.router.policies import POLICIES, WorkerLoad


@dataclass(slots=True)
class _Request:
    processor: int
    worker: int
    prefill_tokens: int


@dataclass(slots=True)
class _Worker:
    last_used: int = 0
    active_requests: int = 0
    active_prefill_tokens: int = 0


@dataclass(slots=True)
class RouterState:
    """Decides, and keeps the ledger in the same step, so that a burst sees its own load.

    Attributes:
        policy: a key of `POLICIES`.
        workers: those that can take requests, by index.
        requests: the ledger: placed requests that have not ended.
        decisions: how often each worker was chosen.
    """

    policy: str
    workers: dict[int, _Worker] = field(default_factory=dict)
    requests: dict[str, _Request] = field(default_factory=dict)
    decisions: Counter[int] = field(default_factory=Counter)
    _order: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def decide(self, processor: int, query: RouteQuery) -> RoutingDecision:
        """Choose a worker and reserve the request's load there; -1 when there is none."""
        if not self.workers:
            return RoutingDecision(query.request_id, -1, self.policy, [], 0.0)
        choice = POLICIES[self.policy](self._loads())
        worker = self.workers[choice.worker]
        worker.last_used = next(self._order)
        worker.active_requests += 1
        worker.active_prefill_tokens += query.prompt_tokens
        self.requests[query.request_id] = _Request(processor, choice.worker, query.prompt_tokens)
        self.decisions[choice.worker] += 1
        return RoutingDecision(query.request_id, choice.worker, self.policy, choice.candidates, 0.0)

    def _loads(self) -> list[WorkerLoad]:
        return [
            WorkerLoad(
                index, worker.active_requests, worker.active_prefill_tokens, worker.last_used
            )
            for index, worker in sorted(self.workers.items())
        ]

    def first_token(self, request_id: str) -> None:
        """The prefill part of a request's load is gone."""
        if (request := self.requests.get(request_id)) is not None:
            if (worker := self.workers.get(request.worker)) is not None:
                worker.active_prefill_tokens -= request.prefill_tokens
            request.prefill_tokens = 0

    def end(self, request_id: str) -> None:
        """All of a request's load is gone; unknown ids are of workers that are gone."""
        self.first_token(request_id)
        request = self.requests.pop(request_id, None)
        if request is not None and (worker := self.workers.get(request.worker)) is not None:
            worker.active_requests -= 1

    def worker_up(self, worker: int) -> None:
        """A worker's engine is ready: a new life without load."""
        self.worker_down(worker)
        self.workers[worker] = _Worker()

    def worker_down(self, worker: int) -> None:
        """A worker is gone, and what it held with it."""
        self.workers.pop(worker, None)
        for request_id in [
            rid for rid, request in self.requests.items() if request.worker == worker
        ]:
            del self.requests[request_id]

    def processor_down(self, processor: int) -> None:
        """A processor is gone: nobody will tell the end of its requests."""
        for request_id in [
            rid for rid, request in self.requests.items() if request.processor == processor
        ]:
            self.end(request_id)

    def stats(self, refused_sends: int) -> RouterStats:
        active = {index: worker.active_requests for index, worker in self.workers.items()}
        return RouterStats(self.policy, dict(self.decisions), active, refused_sends)
