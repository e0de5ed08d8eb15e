"""Chooses the worker for a request: the one that the router names, else the least loaded one."""

from __future__ import annotations

import asyncio
from collections.abc import Set
from dataclasses import dataclass

import msgspec

from dynamo_cli.engines.vllm.front.workers import ChosenWorker
from dynamo_cli.errors import NotReady
from dynamo_cli.ipc.switchboard import Switchboard
from dynamo_cli.messages.flows import ToWorker
from dynamo_cli.messages.lifecycle import Released
from dynamo_cli.messages.request import AbortRequests
from dynamo_cli.messages.routing import (
    FirstToken,
    Placed,
    RequestEnd,
    RouteAnswer,
    RouteQuery,
    weighted_requests,
)
from dynamo_cli.topology import ROUTER, ProcessId, Role


@dataclass(slots=True)
class _PlacedRequest:
    """A request on a worker; `prefilled` once its first token has come."""

    worker: int
    prompt_tokens: int
    prefilled: bool = False


class Dispatch:
    """Asks the router for workers, and keeps track of the requests on them until they leave.

    It implements `Workers` (engines/vllm/front/workers.py) for vLLM's engine client.

    Args:
        switchboard: links to the router and the workers.
        routed: whether the server has a router.

    Attributes:
        unrouted: requests that this process placed itself because the router named no worker.
    """

    def __init__(self, switchboard: Switchboard, *, routed: bool) -> None:
        self._switchboard = switchboard
        self._routed = routed
        self._ready: set[int] = set()
        self._retired: set[int] = set()
        self._unusable: set[int] = set()
        self._came_up: asyncio.Future[None] | None = None
        self._queries: dict[str, asyncio.Future[RouteAnswer]] = {}
        self._running: dict[str, _PlacedRequest] = {}
        self.unrouted = 0

    @property
    def placed(self) -> int:
        """Number of requests that count as load of a worker now."""
        return len(self._running)

    @property
    def queries(self) -> int:
        """Number of queries that the router has not answered."""
        return len(self._queries)

    async def place(self, query: RouteQuery) -> ChosenWorker:
        """Return the worker for a request, which counts as load of it from now on.

        Raises:
            NotReady: no worker can take it.
        """
        answer = await self._ask_router(query)
        while answer.worker in self._retired:
            # The router had not heard yet that the worker is retired: ask again without it.
            answer = await self._ask_router(query)
        if answer.worker in self._ready and answer.worker not in query.excluded:
            self._running[query.request_id] = _PlacedRequest(answer.worker, query.prompt_tokens)
            return ChosenWorker(
                answer.worker, answer.overlap_blocks, answer.prefill_worker, answer.engine_order
            )
        try:
            worker = self._least_loaded(query.excluded)
        except NotReady:
            if answer.worker is not None:  # the router counts it as load of that worker
                self._tell_router(RequestEnd(query.request_id))
            raise
        if self._routed:
            self.unrouted += 1
        self.follow(query.request_id, worker, query.prompt_tokens)
        return ChosenWorker(worker, 0, None, query.priority)

    async def _ask_router(self, query: RouteQuery) -> RouteAnswer:
        """Return the router's answer, which names no worker when there is no router."""
        if self._unusable:  # the router may not know yet that these workers are gone or retired
            excluded = tuple(self._unusable.union(query.excluded))
            query = msgspec.structs.replace(query, excluded=excluded)
        future: asyncio.Future[RouteAnswer] = asyncio.get_running_loop().create_future()
        self._queries[query.request_id] = future
        try:
            if not self._tell_router(query):
                return RouteAnswer(query.request_id, None, 0)
            return await future
        except asyncio.CancelledError:
            self._tell_router(RequestEnd(query.request_id))
            raise
        finally:
            del self._queries[query.request_id]

    def _least_loaded(self, excluded: tuple[int, ...]) -> int:
        usable = self._ready.difference(excluded)
        if not usable:
            raise NotReady(
                "no worker can take requests right now; try again soon.", retry_after_s=1
            )
        load = dict.fromkeys(sorted(usable), 0)
        for running in self._running.values():
            if running.worker in load:
                load[running.worker] += weighted_requests(1, not running.prefilled)
        return min(load, key=load.__getitem__)

    def _tell_router(self, message: RouteQuery | Placed | RequestEnd) -> bool:
        return self._switchboard.send(ROUTER, message)

    def follow(self, request_id: str, worker: int, prompt_tokens: int) -> None:
        """Note a request on a worker for which the router was not asked, and tell the router."""
        running = self._running[request_id] = _PlacedRequest(worker, prompt_tokens)
        self._announce(request_id, running)

    def _announce(self, request_id: str, running: _PlacedRequest) -> None:
        message = Placed(request_id, running.worker, running.prompt_tokens, running.prefilled)
        self._tell_router(message)

    def send(self, worker: int, message: ToWorker) -> bool:
        """Send to a worker; False if it is not linked or its link is full.

        Raises:
            TooLarge: the message is larger than a link takes.
        """
        peer = ProcessId(Role.WORKER, worker)
        if isinstance(message, AbortRequests):
            return self._switchboard.owe(peer, message)
        return self._switchboard.offer(peer, message)

    def ready_workers(self) -> Set[int]:
        """Return the workers that take requests."""
        return self._ready

    async def another_ready(self, timeout_s: float) -> bool:
        """Wait until an engine comes up, for `timeout_s` at most; return whether one did."""
        if self._came_up is None or self._came_up.done():
            self._came_up = asyncio.get_running_loop().create_future()
        came_up = self._came_up
        await asyncio.wait([came_up], timeout=timeout_s)
        return came_up.done()

    def first_token(self, request_id: str, cached_tokens: int) -> None:
        """Tell the router that the prefill of a request is over."""
        if (running := self._running.get(request_id)) is not None:
            running.prefilled = True
            self._switchboard.post(ROUTER, FirstToken(request_id, cached_tokens))

    def ended(self, request_id: str) -> None:
        """Tell the router that a request has left its worker: it has ended, or it moves.

        Tell the supervisor if that was the last one on a retired worker.
        """
        running = self._running.pop(request_id, None)
        if running is not None:
            self._switchboard.post(ROUTER, RequestEnd(request_id))
            self._release(running.worker)

    # -- called by the process -------------------------------------------------------------

    def worker_ready(self, worker: int) -> None:
        """Note that a worker's engine is up."""
        if worker in self._retired:
            return
        self._ready.add(worker)
        self._unusable.discard(worker)
        if self._came_up is not None and not self._came_up.done():
            self._came_up.set_result(None)

    def worker_gone(self, worker: int) -> None:
        """Note that a worker is lost."""
        self._ready.discard(worker)
        if worker in self._retired:  # it does not come back, and the router has known it for long
            self._retired.discard(worker)
            self._unusable.discard(worker)
        else:
            self._unusable.add(worker)

    def worker_retired(self, worker: int) -> None:
        """Choose a worker no more; the requests that it has stay until the client moves them."""
        self._ready.discard(worker)
        self._retired.add(worker)
        self._unusable.add(worker)
        self._release(worker)

    def _release(self, worker: int) -> None:
        """Tell the supervisor if nothing of this process runs on a retired worker any more."""
        if worker not in self._retired:
            return
        if all(running.worker != worker for running in self._running.values()):
            self._switchboard.report(Released(worker))

    def answered(self, answer: RouteAnswer) -> None:
        """Give an answer of the router to the request that waits for it."""
        future = self._queries.get(answer.request_id)
        if future is not None and not future.done():
            future.set_result(answer)

    def announce_running(self) -> None:
        """Tell the router which requests run.

        A new router knows none of them, and each router forgets those it has not heard of for long.
        """
        for request_id, running in self._running.items():
            self._announce(request_id, running)

    def router_gone(self) -> None:
        """Let the requests that wait for the router go to the least loaded worker instead."""
        for request_id, future in self._queries.items():
            if not future.done():
                future.set_result(RouteAnswer(request_id, None, 0))
