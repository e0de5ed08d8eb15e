"""Asks ready children for a sign of life, and kills those that give none in time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable

from dynamo_cli.host.activity import activity
from dynamo_cli.messages.lifecycle import Ping
from dynamo_cli.supervisor.child import Child
from dynamo_cli.supervisor.liveness import Liveness


class Watching:
    """Asks and kills the children that `Liveness` names.

    Args:
        timeout_s: how long a child may take to answer, seconds; see `Liveness`.
        alive: returns the children that have not ended.
    """

    def __init__(self, timeout_s: float, alive: Callable[[], Iterable[Child]]) -> None:
        self._liveness = Liveness(timeout_s, activity)
        self._alive = alive

    def answered(self, child: Child) -> None:
        """Note that a child has given a sign of life."""
        self._liveness.answered(child.process)

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            await asyncio.sleep(self._liveness.interval_s)
            self._look()

    def _look(self) -> None:
        ready = {child.process: child for child in self._alive() if child.is_ready}
        pids = [(process, child.pid) for process, child in ready.items()]
        ask, stalled = self._liveness.look(pids, time.monotonic())
        failed = [error for process in ask if (error := self._ask(ready[process])) is not None]
        for process, why in stalled:
            ready[process].give_up(why)
        if failed:
            raise failed[0]

    def _ask(self, child: Child) -> OSError | None:
        """Ask one child; an error must keep nobody from asking the others."""
        try:
            child.control.send(Ping())
        except OSError as error:
            self._liveness.answered(child.process)  # it was not asked, so it owes no answer
            return error
        return None
