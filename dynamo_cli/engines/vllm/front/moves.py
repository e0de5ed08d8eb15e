"""Moves engine requests to another worker when theirs cannot finish them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence, Set
from typing import NamedTuple

import msgspec

from dynamo_cli.config import MigrationRule
from dynamo_cli.deaths import refusal
from dynamo_cli.engines.vllm.front.live import LiveRequest, families
from dynamo_cli.engines.vllm.front.trace import RequestTrace
from dynamo_cli.engines.vllm.front.workers import ChosenWorker, Workers
from dynamo_cli.errors import DynamoError, NotReady
from dynamo_cli.host import vital
from dynamo_cli.messages.request import Move, MoveReason
from dynamo_cli.messages.routing import RouteQuery
from dynamo_cli.topology import Role


class Lost(NamedTuple):
    """How many requests that left a worker were moved, and how many failed.

    Attributes:
        moved: API requests that go on at another worker, or wait for one that can take them.
        failed: API requests that must not move, and got an error.
    """

    moved: int
    failed: int


class Mover:
    """Finds another worker for engine requests, and sends them there.

    Requests for one prompt (n > 1), a family, that leave a worker together go to one new worker.

    Args:
        rule: how often a request may move, and how long it waits for a worker.
        workers: links and routing.
        query: makes the query for the router about a request that has left its worker.
        send: sends a request to the worker that was chosen.
        end: ends a request with an error.

    Attributes:
        told: is called for each move when its target is known, or when no worker was found in time;
            set by the owner of the client.
    """

    def __init__(
        self,
        rule: MigrationRule,
        workers: Workers,
        query: Callable[[LiveRequest], RouteQuery],
        send: Callable[[LiveRequest, ChosenWorker], None],
        end: Callable[[LiveRequest, DynamoError], None],
    ) -> None:
        self._rule = rule
        self._workers = workers
        self._query = query
        self._send = send
        self._end = end
        self.told: Callable[[RequestTrace, Move], None] = lambda trace, move: None
        self._tasks: set[asyncio.Task[None]] = set()

    def leave(
        self, requests: Iterable[LiveRequest], reason: MoveReason, error: DynamoError
    ) -> Lost:
        """Move these requests, which have left their workers, or fail those that must not move.

        Args:
            error: ends a request that must not move, or that finds no worker in time.
        """
        moved: set[str] = set()
        failed: set[str] = set()
        for family in families(requests):
            must_stay = any(self.must_stay(live) for live in family)
            if failure := error if must_stay else _refused(family, reason):
                failed.add(family[0].trace.request_id)
                for live in family:
                    self._end(live, failure)
            else:
                moved.add(family[0].trace.request_id)
                self._begin(family, reason, error)
        return Lost(len(moved - failed), len(failed))

    def must_stay(self, live: LiveRequest) -> bool:
        """Whether a request must not move: it is at the limit, or is a probe of its worker."""
        return live.trace.worker is not None or live.moves >= self._rule.limit

    def _begin(self, family: Sequence[LiveRequest], reason: MoveReason, error: DynamoError) -> None:
        trace, source = family[0].trace, family[0].worker
        move = Move(Role.WORKER, source, None, reason, trace.output_tokens, time.monotonic_ns())
        trace.moves.append(move)
        for live in family:
            live.left(len(trace.moves) - 1)
        task = asyncio.get_running_loop().create_task(self._move(family, move, error))
        for live in family:
            live.moving = task, family
        vital.watch(task)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _move(self, family: Sequence[LiveRequest], move: Move, error: DynamoError) -> None:
        trace = family[0].trace
        query = msgspec.structs.replace(
            self._query(family[0]),
            moved=move.reason,
            moved_from=move.source,
            output_tokens=sum(len(live.output) for live in family),
        )
        try:
            chosen = await self.place(query, family[0].refused_by)
        except DynamoError:
            if not all(live.over for live in family):
                self.told(trace, move)
            for live in family:
                self._end(live, error)
            return
        if all(live.over for live in family):  # their client has left: they go nowhere
            self._workers.ended(family[0].wire_id)
            return
        trace.placed[family[0].family] = chosen
        position = trace.moves.index(move)
        trace.moves[position] = msgspec.structs.replace(move, target=chosen.worker)
        self.told(trace, trace.moves[position])
        self._send_all(family, chosen)

    def _send_all(self, family: Sequence[LiveRequest], chosen: ChosenWorker) -> None:
        """Send a family to the worker that was chosen for its first request."""
        first, *siblings = family
        for live in siblings:
            self._workers.follow(live.wire_id, chosen.worker, live.computed_tokens)
            self._send(live, chosen)
        self._send(first, chosen)

    def ended(self, live: LiveRequest) -> None:
        """A request is over; if all of its family are, nobody needs another worker any more."""
        live.over = True
        if live.moving is not None and all(one.over for one in live.moving[1]):
            live.moving[0].cancel()

    async def place(self, query: RouteQuery, refused_by: Set[int] = frozenset()) -> ChosenWorker:
        """Return the worker for a request; if none can take it, wait until one can.

        Args:
            refused_by: workers that do not take it; one that is started again leaves this set.

        Raises:
            NotReady: none could within the time of the rule; at once if requests may not move.
        """
        deadline_s = time.monotonic() + (self._rule.timeout_s if self._rule.limit else 0)
        while True:
            if refused_by or query.excluded:
                query = msgspec.structs.replace(query, excluded=tuple(refused_by))
            try:
                return await self._workers.place(query)
            except NotReady:
                left_s = deadline_s - time.monotonic()
                if left_s <= 0 or not await self._workers.another_ready(left_s):
                    raise


def _refused(family: Sequence[LiveRequest], reason: MoveReason) -> DynamoError | None:
    """Count the death of the worker, if it died; return an error if this prompt is to blame.

    Each prompt has its own count, since they may be on different workers. An answer that has ended
    is progress too, so its tokens are counted for as long as the request runs.
    """
    first = family[0]
    trace, deaths = first.trace, first.trace.deaths[first.family]
    if reason is MoveReason.DIED:
        tokens = sum(map(len, trace.outputs[first.family]))
        deaths.add(f"{Role.WORKER} {first.worker}", tokens, time.monotonic_ns())
    return refusal(trace.api_id, deaths.count) if deaths.fatal else None
