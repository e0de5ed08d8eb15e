"""How children end when the run does."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterable
from contextlib import suppress

from dynamo_cli.messages.lifecycle import Stop
from dynamo_cli.supervisor.child import Child
from dynamo_cli.supervisor.retirement import NOT_LISTENING, Work
from dynamo_cli.topology import Role

STOP_TIMEOUT_S = 5.0
ECHO_S = 0.5


class Signals:
    """Tells a signal from its own echo: `timeout` sends SIGTERM to a process and to its group."""

    def __init__(self) -> None:
        self._term_s = -ECHO_S

    def is_echo(self, number: signal.Signals, now_s: float) -> bool:
        """It is the one that has come just now, again."""
        if number != signal.SIGTERM:
            return False
        before_s, self._term_s = self._term_s, now_s
        return now_s - before_s < ECHO_S


async def until_forced(work: Work, forced: asyncio.Event) -> None:
    """Do the work, unless somebody insists on the end."""
    loop = asyncio.get_running_loop()
    orderly, insisted = loop.create_task(work), loop.create_task(forced.wait())
    await asyncio.wait({orderly, insisted}, return_when=asyncio.FIRST_COMPLETED)
    orderly.cancel()
    insisted.cancel()


async def stop(alive: Callable[[], Iterable[Child]], forced: asyncio.Event) -> None:
    """End every child: ask, wait, kill. The zygote last: it tells how the others ended."""
    children = [child for child in alive() if child.process.role is not Role.ZYGOTE]
    for child in children:
        child.control.send(Stop())
        if child.phase in NOT_LISTENING:
            child.kill()  # it does not listen yet
    await until_forced(_all_gone(children), forced)
    for child in children:
        child.kill()
    await _all_gone(children)
    left = list(alive())
    for child in left:
        child.kill()
    await _all_gone(left)


async def _all_gone(children: Iterable[Child]) -> None:
    with suppress(TimeoutError):  # the caller looks who is left
        async with asyncio.timeout(STOP_TIMEOUT_S):
            for child in children:
                await child.gone.wait()
