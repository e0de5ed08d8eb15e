"""The end of a run: how it is requested, what it waits for, and how the children are stopped."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Iterable
from contextlib import suppress

from dynamo_cli.errors import DynamoError
from dynamo_cli.messages.lifecycle import Drain, Drained, StillRunning, Stop
from dynamo_cli.supervisor.child import Child
from dynamo_cli.supervisor.retirement import NOT_LISTENING, Work
from dynamo_cli.topology import Role

STOP_TIMEOUT_S = 5.0
DRAIN_GRACE_S = 2.0
"""How much longer than the drain timeout the frontend may take to report that it has drained."""

ANSWERING = (Role.WORKER, Role.PROCESSOR)
"""Roles without which no request can be answered."""

REACHING = (Role.RELAY, Role.CLUSTER)
"""Roles through which children on other nodes are reached."""

ECHO_S = 0.5
"""A second SIGTERM within this time, seconds, is taken for an echo of the first."""

Alive = Callable[[], Iterable[Child]]


class Signals:
    """Recognizes echoes of SIGTERM: `timeout` sends it to a process and again to its group."""

    def __init__(self) -> None:
        self._term_s = -ECHO_S

    def is_echo(self, number: signal.Signals, now_s: float) -> bool:
        """Whether this is the SIGTERM that arrived a moment ago, delivered once more."""
        if number != signal.SIGTERM:
            return False
        before_s, self._term_s = self._term_s, now_s
        return now_s - before_s < ECHO_S


class Ending:
    """The end of one run of the tree. Make it in a running event loop.

    Args:
        notice: shows a line to people; takes a level and a text.

    Attributes:
        stopping: whether the children are being stopped.
        forced: set by a second signal: the end waits for nothing any more.
        drained: set when the frontend has no request in flight any more, or has ended.
    """

    def __init__(self, notice: Callable[[str, str], None]) -> None:
        self._notice = notice
        self._asked: asyncio.Future[DynamoError | None] = asyncio.get_running_loop().create_future()
        self._signals = Signals()
        self.stopping = False
        self.forced = asyncio.Event()
        self.drained = asyncio.Event()

    @property
    def begun(self) -> bool:
        """Whether the end has begun: nothing is started any more."""
        return self.stopping or self._asked.done()

    async def asked(self) -> DynamoError | None:
        """Wait until the run is to end; return the failure that ends it, or None for a signal."""
        return await self._asked

    def on_signal(self, number: signal.Signals) -> None:
        """Begin the end at the first signal, and force it at the second."""
        if self._signals.is_echo(number, time.monotonic()):
            return
        if self._asked.done():
            self.forced.set()
            self._notice("WARNING", "stopping at once")
        else:
            self._asked.set_result(None)

    def give_up(self, failure: DynamoError) -> None:
        """Begin the end because of a failure, unless it has begun already."""
        if not self._asked.done():
            self._asked.set_result(failure)

    def on_drain_report(self, report: StillRunning | Drained) -> None:
        """Show how many requests the end waits for, or that it waits no longer."""
        match report:
            case StillRunning(in_flight, left_s):
                runs = "1 request is" if in_flight == 1 else f"{in_flight} requests are"
                self._notice("INFO", f"{runs} still running; {left_s:.0f} s left")
            case Drained(remaining):
                if remaining and not self.drained.is_set():
                    were = "1 request was" if remaining == 1 else f"{remaining} requests were"
                    self._notice("WARNING", f"{were} ended before the answer was complete")
                self.drained.set()

    async def drain(self, frontend: Child, timeout_s: float, alive: Alive) -> None:
        """Let requests in flight finish within `timeout_s` seconds.

        They are waited for no longer when the end is forced, or when nobody is left to answer them:
        nothing is started again any more.

        Args:
            alive: returns the children that run.
        """
        cut = asyncio.get_running_loop().create_task(self._cut(frontend, alive))
        await _until_forced(self._drain(frontend, timeout_s), self.forced)
        cut.cancel()

    async def _cut(self, frontend: Child, alive: Alive) -> None:
        """Have the frontend end what runs as soon as no worker or no processor is left."""
        loop = asyncio.get_running_loop()
        waits = {loop.create_task(_none_left(role, alive)): role for role in ANSWERING}
        try:
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waits:
                task.cancel()
        if not self.drained.is_set():
            self._notice("WARNING", f"no {waits[done.pop()]} is left: the running requests fail")
            frontend.control.send(Drain(0.0))

    async def _drain(self, frontend: Child, timeout_s: float) -> None:
        frontend.control.send(Drain(timeout_s))
        self._notice(
            "INFO",
            f"waiting up to {timeout_s:.0f} s for running requests; Ctrl-C again stops at once",
        )
        try:
            await asyncio.wait_for(self.drained.wait(), timeout_s + DRAIN_GRACE_S)
        except TimeoutError:
            self._notice("WARNING", "the frontend did not finish in time")

    async def stop(self, alive: Alive) -> None:
        """Stop every child: ask, wait, kill. Those through which others are reached come last."""
        self.stopping = True
        reached = [child for child in alive() if child.process.role not in REACHING]
        await self._stop(reached)
        await self._stop(list(alive()))

    async def _stop(self, children: list[Child]) -> None:
        for child in children:
            child.control.send(Stop())
            if child.phase in NOT_LISTENING:
                child.kill()  # it does not listen yet
        await _until_forced(_all_gone(children), self.forced)
        for child in children:
            child.kill()
        await _all_gone(children)


async def _until_forced(work: Work, forced: asyncio.Event) -> None:
    """Do the work, but do not wait for it once the end is forced."""
    loop = asyncio.get_running_loop()
    orderly, insisted = loop.create_task(work), loop.create_task(forced.wait())
    await asyncio.wait({orderly, insisted}, return_when=asyncio.FIRST_COMPLETED)
    orderly.cancel()
    insisted.cancel()


async def _none_left(role: Role, alive: Alive) -> None:
    """Wait until no child of this role runs."""
    while left := [child for child in alive() if child.process.role is role]:
        await left[0].gone.wait()


async def _all_gone(children: Iterable[Child]) -> None:
    with suppress(TimeoutError):  # the caller looks which children are left
        async with asyncio.timeout(STOP_TIMEOUT_S):
            for child in children:
                await child.gone.wait()
