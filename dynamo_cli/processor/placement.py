"""Which worker gets a request: the router's answer, or the least loaded one without a router."""

from __future__ import annotations

import asyncio
import logging

from dynamo_cli.errors import NotReady
from dynamo_cli.ipc.switchboard import Switchboard
from dynamo_cli.messages import FirstToken, RequestEnd, RouteQuery, RoutingDecision, ToWorker
from dynamo_cli.topology import ProcessId, Role

ROUTER = ProcessId(Role.ROUTER)

logger = logging.getLogger(__name__)


class Placement:
    """The `Workers` of this process's engine client.

    Attributes:
        unrouted: requests that this process placed itself because the router did not answer.
    """

    def __init__(self, switchboard: Switchboard) -> None:
        self._switchboard = switchboard
        self._ready: set[int] = set()
        self._queries: dict[str, asyncio.Future[RoutingDecision]] = {}
        self._placed: dict[str, int] = {}
        self._routed: set[str] = set()
        self.unrouted = 0

    async def place(self, request_id: str, prompt_tokens: int) -> int:
        """The worker for a request; its load counts from now on.

        Raises:
            NotReady: no worker can take it.
        """
        worker = await self._ask_router(request_id, prompt_tokens)
        if worker not in self._ready:
            worker = self._least_loaded()
        self._placed[request_id] = worker
        return worker

    async def _ask_router(self, request_id: str, prompt_tokens: int) -> int:
        if ROUTER not in self._switchboard.links:
            return -1
        answer: asyncio.Future[RoutingDecision] = asyncio.get_running_loop().create_future()
        self._queries[request_id] = answer
        self._routed.add(request_id)
        try:
            if not self._switchboard.send(ROUTER, RouteQuery(request_id, prompt_tokens)):
                self.unrouted += 1
                return -1
            return (await answer).worker
        except asyncio.CancelledError:
            self.ended(request_id)
            raise
        finally:
            del self._queries[request_id]

    def _least_loaded(self) -> int:
        if not self._ready:
            raise NotReady("no worker can take requests right now.", retry_after_s=1)
        load = dict.fromkeys(sorted(self._ready), 0)
        for worker in self._placed.values():
            if worker in load:
                load[worker] += 1
        return min(load, key=load.__getitem__)

    def send(self, worker: int, message: ToWorker) -> bool:
        return self._switchboard.send(ProcessId(Role.WORKER, worker), message)

    def ready_workers(self) -> list[int]:
        return sorted(self._ready)

    def first_token(self, request_id: str) -> None:
        if request_id in self._routed:
            self._switchboard.send(ROUTER, FirstToken(request_id))

    def ended(self, request_id: str) -> None:
        self._placed.pop(request_id, None)
        if request_id in self._routed:
            self._routed.discard(request_id)
            self._switchboard.send(ROUTER, RequestEnd(request_id))

    # -- called by the process -------------------------------------------------------------

    def worker_ready(self, worker: int) -> None:
        self._ready.add(worker)

    def worker_gone(self, worker: int) -> None:
        self._ready.discard(worker)

    def decided(self, decision: RoutingDecision) -> None:
        answer = self._queries.get(decision.request_id)
        if answer is not None and not answer.done():
            answer.set_result(decision)

    def router_gone(self) -> None:
        """Without the router requests go on, to the least loaded worker that this process knows."""
        for request_id, answer in self._queries.items():
            if not answer.done():
                self.unrouted += 1
                answer.set_result(RoutingDecision(request_id, -1, "none", [], 0.0))
        self._routed.clear()
