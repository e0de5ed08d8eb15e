"""Retires workers while the tree goes on serving: no new requests, then drain, then stop."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from contextlib import suppress
from dataclasses import dataclass, field

from dynamo_cli.messages.lifecycle import Phase, Retire, SetPhase, Stop
from dynamo_cli.supervisor.child import Child
from dynamo_cli.topology import ProcessId, Role

NOT_LISTENING = (Phase.STARTING, Phase.IMPORTING, Phase.LOADING)
"""In these phases a child does not read its control socket."""

Work = Coroutine[object, object, None]


@dataclass(slots=True)
class _Retirement:
    """One worker that retires.

    Attributes:
        users: processors that may still have requests in flight on it.
        unused: set when no such processor is left.
    """

    users: set[ProcessId]
    unused: asyncio.Event = field(default_factory=asyncio.Event)

    def without(self, user: ProcessId) -> None:
        self.users.discard(user)
        if not self.users:
            self.unused.set()


class Retirements:
    """All workers that retire.

    Args:
        drain_timeout_s: how long their requests in flight may take.
        stop_timeout_s: how long they may take to stop.
    """

    def __init__(self, drain_timeout_s: float, stop_timeout_s: float) -> None:
        self._drain_timeout_s = drain_timeout_s
        self._stop_timeout_s = stop_timeout_s
        self._retiring: dict[ProcessId, _Retirement] = {}

    def __contains__(self, process: ProcessId) -> bool:
        return process in self._retiring

    def staying(self, children: Iterable[Child], newcomer: ProcessId) -> list[Child]:
        """Those that a process gets links to, which is new, or whose node is back.

        Host caches have links to workers that retire too: until they end they use slots of the
        memory, and it must not be given to others.
        """
        return [
            child
            for child in children
            if Role.HOST_CACHE in (newcomer.role, child.process.role)
            or self._retiring.keys().isdisjoint((newcomer, child.process))
        ]

    def retire(self, worker: Child, others: Iterable[Child]) -> Work:
        """Begin to retire a worker.

        Args:
            others: the linked children that could send requests to it, or have them sent.

        Returns:
            the rest of the work, which waits until no request runs on the worker and stops it.
        """
        listens = worker.phase not in NOT_LISTENING
        retirement = self._retiring[worker.process] = _Retirement(set())
        worker.move_to(Phase.DRAINING, "the number of workers is reduced")
        worker.control.send(SetPhase(Phase.DRAINING))
        for other in others:
            other.control.send(Retire(worker.process.index))
            if other.process.role is Role.PROCESSOR:
                retirement.users.add(other.process)
        return self._see_out(worker, retirement, listens=listens)

    async def _see_out(self, worker: Child, retirement: _Retirement, *, listens: bool) -> None:
        """Wait for its requests in flight, then stop it."""
        if retirement.users:
            await _at_most(self._drain_timeout_s, retirement.unused)
        await self.stop(worker, listens=listens)

    async def stop(self, worker: Child, *, listens: bool) -> None:
        """Stop a worker that retires and has no requests any more.

        Args:
            listens: whether it reads its control socket.
        """
        if worker.gone.is_set():
            return  # there may be another worker of this name on its node
        worker.control.send(Stop())
        if not listens:
            worker.kill()
        await _at_most(self._stop_timeout_s, worker.gone)
        while worker.alive:  # what it is told does not arrive while its node is lost
            worker.end()
            await _at_most(self._stop_timeout_s, worker.gone)

    def released(self, user: ProcessId, worker: ProcessId) -> None:
        """Note that a processor has no request in flight on this worker any more."""
        if (retirement := self._retiring.get(worker)) is not None:
            retirement.without(user)

    def parted(self, worker: ProcessId) -> None:
        """Note that the links of this worker are down: nothing of the others runs on it any more,
        and none of them will say so."""
        if (retirement := self._retiring.get(worker)) is not None:
            retirement.unused.set()

    def ended(self, process: ProcessId) -> None:
        """Note that a child has ended: it retires no more, and it uses no worker any more."""
        self.parted(process)
        self._retiring.pop(process, None)
        for retirement in self._retiring.values():
            retirement.without(process)


async def _at_most(timeout_s: float, event: asyncio.Event) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), timeout_s)
