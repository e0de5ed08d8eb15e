"""`/sleep`, `/wake_up`, `/is_sleeping` and `/reset_prefix_cache`, carried out by all engines."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from multidict import MultiMapping

from dynamo_cli.errors import InvalidRequest, PeerLost, Unavailable, error_class
from dynamo_cli.ipc.switchboard import Switchboard
from dynamo_cli.messages.admin import Operate, Operated, Operation
from dynamo_cli.topology import ProcessId, Role

TIMEOUT_S = 600.0
LEVELS = ("0", "1", "2")
MODES = ("abort", "wait")
FLAGS = {"true": True, "1": True, "false": False, "0": False}

CLOSE = Operate(0, Operation.RESET_PREFIX_CACHE, closed=True)
"""To a host cache; calls have numbers from 1 on."""

Query = MultiMapping[str]


class EngineOperations:
    """Sends operations to all engines and gathers their answers.

    Args:
        switchboard: links to workers, prefill workers and host caches.
        ready: gives the processes that are ready and linked now.
    """

    def __init__(self, switchboard: Switchboard, ready: Callable[[], Sequence[ProcessId]]) -> None:
        self._switchboard = switchboard
        self._ready = ready
        self._numbers = itertools.count(1)
        self._resetting = asyncio.Lock()
        self._closed = False  # whether host caches are to be closed now
        self._calls: dict[int, tuple[ProcessId, asyncio.Future[Operated]]] = {}

    async def sleep(self, query: Query) -> dict[str, Any]:
        """Let all engines sleep.

        Workers go first, so that none of their prompts waits for a sleeping prefill worker.

        Args:
            query: may have level and mode.

        Raises:
            DynamoError: the query is invalid, or an engine failed.
        """
        level, mode = query.get("level", "1"), query.get("mode", "abort")
        if level not in LEVELS:
            raise InvalidRequest(
                f"level must be one of {', '.join(LEVELS)}; it is {level!a}.", param="level"
            )
        if mode not in MODES:
            raise InvalidRequest(
                f"mode must be {' or '.join(MODES)}; it is {mode!a}.", param="mode"
            )
        order = Operate(0, Operation.SLEEP, level=int(level), wait=mode == "wait")
        for role in (Role.WORKER, Role.PREFILL_WORKER):
            await self._all(order, role)
        return {"status": "sleeping", "level": int(level)}

    async def wake_up(self, query: Query) -> dict[str, Any]:
        """Wake all engines, prefill workers first; the query may name tags."""
        tags = tuple(query.getall("tags", []))
        order = Operate(0, Operation.WAKE_UP, tags=tags)
        asleep = [
            *(await self._all(order, Role.PREFILL_WORKER)).values(),
            *(await self._all(order, Role.WORKER)).values(),
        ]
        return {"status": "sleeping" if any(asleep) else "awake", "tags": list(tags) or None}

    async def is_sleeping(self, _: Query) -> dict[str, Any]:
        """Whether any engine sleeps, and each one by name."""
        order = Operate(0, Operation.IS_SLEEPING)
        asleep = await self._all(order, Role.WORKER, Role.PREFILL_WORKER)
        return {"is_sleeping": any(asleep.values()), "engines": asleep}

    async def reset_prefix_cache(self, query: Query) -> dict[str, Any]:
        """Reset the prefix caches: whether all engines could, and each one by name.

        The host cache is closed before and opened after, so that no engine gets blocks from there
        that another has stored before its reset.
        """
        running = query.get("reset_running_requests", "false").lower()
        if running not in FLAGS:
            raise InvalidRequest(
                f"reset_running_requests must be true or false; it is {running!a}."
            )
        order = Operate(0, Operation.RESET_PREFIX_CACHE, reset_running=FLAGS[running])
        async with self._resetting:
            self._closed = True
            try:
                await self._each(self._host_caches(), CLOSE)
                done = await self._all(order, Role.WORKER, Role.PREFILL_WORKER)
            finally:
                self._closed = False
                opened = await self._each(self._host_caches(), order)
        done |= opened
        return {"success": all(done.values()), "engines": done}

    def _host_caches(self) -> list[ProcessId]:
        """All that are linked: one that has just been started is used by engines already."""
        return [peer for peer in self._switchboard.links if peer.role is Role.HOST_CACHE]

    async def _all(self, order: Operate, *roles: Role) -> dict[str, bool]:
        """The result of every ready engine of these roles, by name. Raises as `_each`."""
        return await self._each([peer for peer in self._ready() if peer.role in roles], order)

    async def _each(self, peers: Sequence[ProcessId], order: Operate) -> dict[str, bool]:
        """The result of each of these processes, by name.

        Raises:
            DynamoError: one of them failed; the others have carried out the operation.
        """
        answers = await asyncio.gather(
            *(self._one(peer, order) for peer in peers), return_exceptions=True
        )
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        return {
            peer.name: answer.result
            for peer, answer in zip(peers, answers, strict=True)
            if isinstance(answer, Operated)
        }

    async def _one(self, peer: ProcessId, order: Operate) -> Operated:
        number = next(self._numbers)
        future: asyncio.Future[Operated] = asyncio.get_running_loop().create_future()
        self._calls[number] = (peer, future)
        try:
            called = msgspec.structs.replace(order, call_id=number)
            # A host cache that did not hear that it is to open would stay closed.
            owed = peer.role is Role.HOST_CACHE
            if not (self._switchboard.owe if owed else self._switchboard.send)(peer, called):
                raise Unavailable(f"{peer.name} cannot be reached.")
            async with asyncio.timeout(TIMEOUT_S):
                answer = await future
        except TimeoutError as error:
            raise Unavailable(f"{peer.name} did not answer within {TIMEOUT_S:.0f} s.") from error
        finally:
            del self._calls[number]
        if answer.error:
            raise error_class(answer.error)(f"{peer.name}: {answer.message}")
        return answer

    # -- called by the process -------------------------------------------------------------

    def answered(self, answer: Operated) -> None:
        """An engine has answered a call."""
        _, future = self._calls.get(answer.call_id, (None, None))
        if future is not None and not future.done():
            future.set_result(answer)

    def linked(self, peer: ProcessId) -> None:
        """There is a new link. A host cache that was started again during a reset is closed too."""
        if self._closed and peer.role is Role.HOST_CACHE:
            self._switchboard.owe(peer, CLOSE)

    def engine_gone(self, peer: ProcessId, reason: str) -> None:
        """An engine is gone: its calls fail."""
        for owner, future in self._calls.values():
            if owner == peer and not future.done():
                future.set_exception(
                    PeerLost(f"{peer.name} stopped before it had answered ({reason}).")
                )
