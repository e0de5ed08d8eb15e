"""Which worker gets a request: the router's answer, or the least loaded one without a router."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from dynamo_cli.engines.vllm.front.trace import ChosenWorker
from dynamo_cli.errors import NotReady
from dynamo_cli.ipc.switchboard import Switchboard
from dynamo_cli.messages.flows import ToWorker
from dynamo_cli.messages.lifecycle import Released
from dynamo_cli.messages.request import AbortRequests
from dynamo_cli.messages.routing import FirstToken, Placed, RequestEnd, RouteAnswer, RouteQuery
from dynamo_cli.topology import ROUTER, ProcessId, Role


@dataclass(slots=True)
class _Running:
    """A placed request; `prefilled` when its first token has come."""

    worker: int
    prompt_tokens: int
    prefilled: bool = False


class Dispatch:
    """The `Workers` of this process's engine client.

    Attributes:
        unrouted: requests that this process placed itself because the router did not answer.
    """

    def __init__(self, switchboard: Switchboard, *, routed: bool) -> None:
        self._switchboard = switchboard
        self._routed = routed
        self._ready: set[int] = set()
        self._retired: set[int] = set()
        self._queries: dict[str, asyncio.Future[RouteAnswer]] = {}
        self._running: dict[str, _Running] = {}
        self.unrouted = 0

    @property
    def placed(self) -> int:
        """Requests that count as load now."""
        return len(self._running)

    @property
    def queries(self) -> int:
        """That the router has not answered."""
        return len(self._queries)

    async def place(self, query: RouteQuery) -> ChosenWorker:
        """The worker for a request; its load counts from now on.

        Raises:
            NotReady: no worker can take it.
        """
        answer = await self._ask_router(query)
        while answer.worker in self._retired:
            answer = await self._ask_router(query)  # it has not heard of that yet
        if answer.worker in self._ready:
            self._running[query.request_id] = _Running(answer.worker, query.prompt_tokens)
            return ChosenWorker(
                answer.worker, answer.overlap_blocks, answer.prefill_worker, answer.engine_order
            )
        worker = self._least_loaded()
        if self._routed:
            self.unrouted += 1
        self.follow(query.request_id, worker, query.prompt_tokens)
        return ChosenWorker(worker, 0, None, query.priority)

    async def _ask_router(self, query: RouteQuery) -> RouteAnswer:
        """The router's answer; it names no worker when there is no router."""
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

    def _least_loaded(self) -> int:
        if not self._ready:
            raise NotReady("no worker can take requests right now.", retry_after_s=1)
        load = dict.fromkeys(sorted(self._ready), 0)
        for running in self._running.values():
            if running.worker in load:
                load[running.worker] += 1
        return min(load, key=load.__getitem__)

    def _tell_router(self, message: RouteQuery | Placed | FirstToken | RequestEnd) -> bool:
        return self._switchboard.send(ROUTER, message)

    def follow(self, request_id: str, worker: int, prompt_tokens: int) -> None:
        """Place a request where the router was not asked for; it hears of it."""
        running = self._running[request_id] = _Running(worker, prompt_tokens)
        self._announce(request_id, running)

    def _announce(self, request_id: str, running: _Running) -> None:
        message = Placed(request_id, running.worker, running.prompt_tokens, running.prefilled)
        self._tell_router(message)

    def send(self, worker: int, message: ToWorker) -> bool:
        peer = ProcessId(Role.WORKER, worker)
        if isinstance(message, AbortRequests):
            return self._switchboard.owe(peer, message)
        return self._switchboard.send(peer, message)

    def ready_workers(self) -> list[int]:
        return sorted(self._ready)

    def first_token(self, request_id: str, cached_tokens: int) -> None:
        if (running := self._running.get(request_id)) is not None:
            running.prefilled = True
            self._tell_router(FirstToken(request_id, cached_tokens))

    def ended(self, request_id: str) -> None:
        running = self._running.pop(request_id, None)
        if running is not None:
            self._tell_router(RequestEnd(request_id))
            self._release(running.worker)

    # -- called by the process -------------------------------------------------------------

    def worker_ready(self, worker: int) -> None:
        if worker not in self._retired:
            self._ready.add(worker)

    def worker_gone(self, worker: int) -> None:
        self._ready.discard(worker)
        self._retired.discard(worker)

    def worker_retired(self, worker: int) -> None:
        """It gets no more requests; what runs there goes on."""
        self._ready.discard(worker)
        self._retired.add(worker)
        self._release(worker)

    def _release(self, worker: int) -> None:
        """Tell the supervisor when nothing runs on a retired worker any more."""
        if worker not in self._retired:
            return
        if all(running.worker != worker for running in self._running.values()):
            self._switchboard.report(Released(worker))

    def answered(self, answer: RouteAnswer) -> None:
        future = self._queries.get(answer.request_id)
        if future is not None and not future.done():
            future.set_result(answer)

    def announce_running(self) -> None:
        """Tell the router what runs: a new life of it knows nothing, and others may doubt it."""
        for request_id, running in self._running.items():
            self._announce(request_id, running)

    def router_gone(self) -> None:
        """Requests go on without it, to the least loaded worker that this process knows."""
        for request_id, future in self._queries.items():
            if not future.done():
                future.set_result(RouteAnswer(request_id, None, 0))
